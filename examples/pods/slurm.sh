#!/bin/bash
# Two nodes of eight GPUs: sbatch examples/pods/slurm.sh
#
# A preempted or timed-out job is queued again and continues from its newest checkpoint.
#SBATCH --job-name=gsto-w48
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

srun --kill-on-bad-exit=0 .venv/bin/python main.py --distributed \
  --config=configs/cityscapes_w48.py:batch=64 \
  --workdir="$SCRATCH/runs/w48" \
  --config.data.root="$SCRATCH/gsto_data" \
  --config.run.checkpoint_minutes=10
status=$?
# srun ends with the highest status of its tasks; 42 is run.preemption_status.
if [ "$status" -eq 42 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
