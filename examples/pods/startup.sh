#!/bin/bash
# Start-up script of a TPU machine of Compute Engine: installs the program and starts it as a
# service. Replace BUCKET, which holds gsto.tar.gz: git archive HEAD | gzip > gsto.tar.gz
set -euo pipefail

if [ ! -d /opt/gsto ]; then
  rm -rf /opt/gsto.part  # of a start that was interrupted
  mkdir /opt/gsto.part
  gcloud storage cat gs://BUCKET/gsto.tar.gz | tar xz -C /opt/gsto.part
  mv /opt/gsto.part /opt/gsto
fi
cd /opt/gsto
python3 -m venv /opt/uv
/opt/uv/bin/pip install --quiet uv
[ -d .venv ] || /opt/uv/bin/uv venv --python 3.13
/opt/uv/bin/uv pip install --quiet '.[train,gcs,tpu]'

cat > /etc/systemd/system/gsto.service <<'UNIT'
[Unit]
Description=GSTO training
After=network-online.target

[Service]
WorkingDirectory=/opt/gsto
ExecStart=/opt/gsto/.venv/bin/python main.py \
  --config=configs/cityscapes_w48.py:batch=64 \
  --workdir=gs://BUCKET/runs/w48 \
  --config.data.root=gs://BUCKET/gsto_data \
  --config.model.dtype=bfloat16 \
  --config.run.checkpoint_minutes=10 \
  --join_timeout=600
# 42: preempted. A lost host ends the others with it too, and they join again.
Restart=no
RestartForceExitStatus=42 SIGABRT SIGKILL
RestartSec=10
KillSignal=SIGTERM
TimeoutStopSec=60
UNIT
systemctl daemon-reload
systemctl start --no-block gsto
