#!/bin/bash
# Four strategies, NCCL's own choices against ring and tree, on 1, 2 and 4 GPUs of one host, each point three times,
# about half an hour. One GPU talks to nobody, so that NCCL's settings differ on more alone, and fsdp_tp, which needs
# two, is refused there. GPUS names fewer scales, such as GPUS=1,2, and STUDY the study; what is given here goes to each
# command, such as root=/data/studies, or launcher=dry hardware=h200 to see what would run. Where it was cut short, the
# same command goes on.
set -eu
given=("$@")
gpus=${GPUS:-1,2,4}
more=$(tr , '\n' <<<"$gpus" | grep -vx 1 | paste -sd ,)

run() {
    harness run -m study="${STUDY:-h200x4-scaling}" model=1b local_batch=1 precision=bf16 compile=true seq_len=8192 \
        data=synthetic optimizer.lr_warmup=5 steps=30 repeats=3 parallel=ddp,fsdp,zero3,fsdp_tp "$@" "${given[@]}"
}

run gpus_per_node="$gpus"
[ -z "$more" ] || run gpus_per_node="$more" nccl=ring,tree
