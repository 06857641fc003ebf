#!/bin/bash
# Every point of the study h200-strategies: one host with four GPUs, about twenty minutes. What is given here goes to
# each command, such as root=/data/studies, or launcher=dry hardware=h200 to see what would run.
set -eu
given=("$@")

run() {
    harness run -m study=h200-strategies gpus_per_node=4 precision=bf16 compile=true seq_len=8192 data=synthetic \
        optimizer.lr_warmup=5 steps=30 "$@" "${given[@]}"
}

one_b() {
    run model=1b local_batch=2 "$@"
}

one_b parallel=zero1,zero2,zero3,ddp,fsdp,hsdp,tp,fsdp_tp,fsdp_cp,cp,pp,fsdp_pp,hsdp_tp,fsdp_tp_pp
one_b parallel=cp parallel.context=ulysses
one_b parallel=fsdp_pp parallel.schedule=interleaved parallel.virtual_stages=2
one_b parallel=fsdp_pp parallel.schedule=zero_bubble parallel.virtual_stages=2 compile=false
one_b parallel=fsdp_pp parallel.schedule=gpipe
one_b parallel=fsdp activation_checkpointing=selective,full
one_b parallel=fsdp precision=float8
run model=mla_moe_16b model.layers=6 local_batch=1 parallel=fsdp,ep
run model=moe_8x7b model.layers=2 local_batch=1 parallel=fsdp_ep,fsdp_tp
run model=8b local_batch=1 parallel=fsdp
