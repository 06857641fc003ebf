#!/bin/bash
#SBATCH --job-name=scale
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --open-mode=append
# A scaling study in one allocation: sbatch --nodes=8 --gpus-per-node=8 slurm/scale.sh model=8b parallel=fsdp …
# Points run on 1, 2, 4 … hosts up to the allocation's, or on those that NODES says: NODES="1 3 8" sbatch …
# A rank for each GPU that was asked for, or that a host has, unless gpus_per_node= says otherwise.
# What a cluster needs before anything starts, such as modules, goes into slurm/site.sh.
set -euo pipefail
refuse() {
    echo "scale.sh: $1" >&2
    exit 2
}
# Slurm runs a copy; its record of the job has the script that was submitted, with its arguments
command=$(scontrol show job --oneliner "$SLURM_JOB_ID")
command=${command#* Command=}
command=${command%%"${*:+ $*} WorkDir="*}
case $command in /*) ;; *) command=$SLURM_SUBMIT_DIR/$command ;; esac
SCALING_HARNESS=$(dirname "$(dirname "$(readlink -f "$command")")")
[ -f "$SCALING_HARNESS/slurm/scale.sh" ] || refuse "cannot tell where it lies; submit it by its path, as sbatch … slurm/scale.sh"
if [ -f "$SCALING_HARNESS/slurm/site.sh" ]; then
    trap 'echo "scale.sh: slurm/site.sh ended with exit code $?" >&2' EXIT
    set +u
    # shellcheck source=/dev/null
    . "$SCALING_HARNESS/slurm/site.sh"
    set -u
    trap - EXIT
fi
if [ -z "${NODES:-}" ]; then
    for ((nodes = 1; nodes < SLURM_JOB_NUM_NODES; nodes *= 2)); do NODES="${NODES:-} $nodes"; done
    NODES="${NODES:-} $SLURM_JOB_NUM_NODES"
fi
read -ra counts <<<"$NODES"
# gpu:h100:8 is a way to ask for eight
gpus=${SLURM_GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
PATH=$SCALING_HARNESS/.venv/bin:$PATH
command -v harness >/dev/null || refuse "no harness in $SCALING_HARNESS/.venv/bin or in PATH; run make setup there"
exec harness run -m launcher=srun nodes="$(IFS=,; echo "${counts[*]}")" gpus_per_node="${gpus##*:}" "$@"
