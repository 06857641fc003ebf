#!/bin/bash
#SBATCH --job-name=scale
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
# A scaling study in one allocation: sbatch --nodes=8 --gpus-per-node=8 slurm/scale.sh model=8b parallel=fsdp …
# Points run on 1, 2, 4 … hosts up to the allocation's, or on those that NODES says: NODES="1 3 8" sbatch …
# A rank for each GPU of a host, unless gpus_per_node= says otherwise.
# What a cluster needs before anything starts, such as modules, goes into slurm/site.sh.
set -euo pipefail
script=$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n '1s/.* Command=\(.*\.sh\)\( .*\)\{0,1\} WorkDir=.*/\1/p')
source_tree=$(dirname "$(dirname "$script")")
if [ -f "$source_tree/slurm/site.sh" ]; then
    set +u
    # shellcheck source=/dev/null
    . "$source_tree/slurm/site.sh"
    set -u
fi
if [ -z "${NODES:-}" ]; then
    for ((count = 1; count < SLURM_JOB_NUM_NODES; count *= 2)); do NODES="${NODES:-} $count"; done
    NODES="${NODES:-} $SLURM_JOB_NUM_NODES"
fi
read -ra counts <<<"$NODES"
PATH=$source_tree/.venv/bin:$PATH
exec harness run -m launcher=srun nodes="$(IFS=,; echo "${counts[*]}")" gpus_per_node="${SLURM_GPUS_ON_NODE:-1}" "$@"
