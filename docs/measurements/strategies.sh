#!/bin/bash
# Every strategy on one host with four GPUs, about twenty minutes; with GPUS=2 those that two GPUs can run. STUDY names
# the study; what is given here goes to each command, such as root=/data/studies, or launcher=dry hardware=h200 to see
# what would run. Where it was cut short, the same command goes on.
set -eu
given=("$@")
gpus=${GPUS:-4}
case $gpus in
    4) four=,fsdp_tp,fsdp_cp,hsdp_tp,fsdp_tp_pp ;;
    2) four= ;;
    *) echo "GPUS=$gpus: must be 4 or 2" >&2; exit 2 ;;
esac

run() {
    harness run -m study="${STUDY:-h200x$gpus-strategies}" gpus_per_node="$gpus" precision=bf16 compile=true \
        seq_len=8192 data=synthetic optimizer.lr_warmup=5 steps=30 "$@" "${given[@]}"
}

one_b() {
    run model=1b local_batch=2 "$@"
}

one_b parallel=zero1,zero2,zero3,ddp,fsdp,hsdp,tp,cp,pp,fsdp_pp$four
run model=8b local_batch=1 parallel=fsdp
run model=mla_moe_16b model.layers=6 local_batch=1 parallel=fsdp,ep
run model=moe_8x7b model.layers=2 local_batch=1 parallel=fsdp_ep,fsdp_tp
one_b parallel=cp parallel.context=ulysses
one_b parallel=fsdp_pp parallel.schedule=interleaved parallel.virtual_stages=2
one_b parallel=fsdp_pp parallel.schedule=zero_bubble parallel.virtual_stages=2 compile=false
one_b parallel=fsdp_pp parallel.schedule=gpipe
one_b parallel=fsdp activation_checkpointing=selective,full
one_b parallel=fsdp precision=float8
