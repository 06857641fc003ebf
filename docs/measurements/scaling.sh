#!/bin/bash
# Four strategies, NCCL's own choices against ring and tree, on 1, 2 and 4 GPUs of one host, each point three times,
# about forty minutes; with GPUS=2 on 1 and 2 GPUs, half of that. One GPU talks to nobody, so that NCCL's settings differ
# on more alone, and fsdp_tp, which needs two, is refused there. STUDY names the study; what is given here goes to each
# command, such as root=/data/studies, or launcher=dry hardware=h200 to see what would run. Where it was cut short, the
# same command goes on.
set -eu
given=("$@")
gpus=${GPUS:-4}
case $gpus in
    4) scales=2,4 ;;
    2) scales=2 ;;
    *) echo "GPUS=$gpus: must be 4 or 2" >&2; exit 2 ;;
esac

run() {
    harness run -m study="${STUDY:-h200x$gpus-scaling}" model=1b local_batch=2 precision=bf16 compile=true seq_len=8192 \
        data=synthetic optimizer.lr_warmup=5 steps=30 repeats=3 "$@" "${given[@]}"
}

run parallel=ddp,fsdp,zero3,fsdp_tp gpus_per_node=1,"$scales"
run parallel=ddp,fsdp,zero3,fsdp_tp gpus_per_node="$scales" nccl=ring,tree
