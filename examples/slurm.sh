#!/usr/bin/env bash
# embedfit on a Slurm cluster: sbatch examples/slurm.sh DOCS RUN
# One node drives and works, the others work for it, as a Ray cluster of this job alone. DOCS, RUN, the models and the
# stored vectors lie on the file system that all nodes share; the ledger of paid replies, an SQLite file, does not.
# If the job ends early, give the same command: what is done is kept.
#SBATCH --job-name=embedfit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
set -euo pipefail

docs=${1:?which documents}
run=${2:?which run folder}
export EMBEDFIT_CACHE=${EMBEDFIT_CACHE:-$PWD/cache}
export RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | cut -d ' ' -f 1):6379

srun --overlap --nodes=1 --ntasks=1 -w "${nodes[0]}" \
  ray start --head --node-ip-address="${address%:*}" --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20
if ((${#nodes[@]} > 1)); then
  srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="${nodes[0]}" \
    ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
  sleep 20
fi

srun --overlap --nodes=1 --ntasks=1 -w "${nodes[0]}" \
  embedfit run "$docs" --run "$run" --ray "$address" --yes
