#!/bin/sh
# Runs this point again by hand in a new folder; the point's own record stays as it is.
set -eu
cd /work/main
RUN_DIR=$(mktemp -d)
cp /tmp/studies/h200x4-strategies/points/1b-tp-n1x4-default-r0-ced74d/config.yaml "$RUN_DIR"
export HARNESS_POINT="$RUN_DIR"
export NCCL_DEBUG=INFO
export NCCL_DEBUG_FILE="$RUN_DIR"/attempts/0/logs/nccl.%h.%p.log
export NCCL_DEBUG_SUBSYS=INIT,ENV
export NCCL_NVLS_ENABLE=0
export NCCL_VERSION=2.28.3-1
export OMP_NUM_THREADS=16
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2
export PYTHONPATH=/work/main:/tmp/site:/work/main
export PYTHONUNBUFFERED=1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=60
export TORCH_FR_BUFFER_SIZE=7192
export TORCH_NCCL_ENABLE_TIMING=1
mkdir -p "$RUN_DIR"/attempts/0/logs
/opt/torch/.venv/bin/python3 -m torch.distributed.run --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1 --log-dir="$RUN_DIR"/attempts/0/logs/node0 --rdzv-backend=c10d --rdzv-id=1b-tp-n1x4-default-r0-ced74d --nnodes=1 --nproc-per-node=4 --redirects=3 -m harness.worker "$RUN_DIR" --attempt=0 --device=cuda
echo "$RUN_DIR"
