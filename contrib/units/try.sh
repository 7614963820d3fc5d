#!/usr/bin/env bash
# The same conversion by one run, by a Slurm array of four units and by Ray, one unit of each killed and
# done again: the three must be the same byte for byte.
#
#     contrib/units/try.sh LLMSTD [PYTHON with ray]
#
# Needs slurmctld, slurmd, slurm-client and munge of Debian, and may start them (as root); it makes a cluster
# of this one machine for itself. Last tried with Slurm 22.05.8 and Ray 2.60.0.
set -euo pipefail
tool=$(realpath "${1:?usage: try.sh LLMSTD [PYTHON]}")
python=${2:-python3}
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
mkdir "$work"/{bin,state,spool}
cd "$work"
args=(--max-shard-size 10KB)
"$tool" spec sample qwen3_moe src > /dev/null
"$tool" convert -q src one "${args[@]}"

# The first time that it is asked for unit 2 it is killed, and so is what asked.
cat > bin/llmstd <<SH
#!/usr/bin/env bash
if [ ! -e killed ] && { [[ " \$* " == *" --unit 2/"* ]] || [[ "\${SLURM_ARRAY_TASK_ID:-}" == 2 && " \$* " == *" --unit "* ]]; }; then
    touch killed
    "$tool" "\$@" & kill -9 \$!; kill -9 \$PPID; exit 137
fi
exec "$tool" "\$@"
SH
chmod +x bin/llmstd
export PATH=$work/bin:$PATH SLURM_CONF=$work/slurm.conf

same() { diff -r one "$1" && [ -e killed ] && echo "$1: the same bytes as one run"; }

if command -v slurmctld > /dev/null; then
    cat > slurm.conf <<CONF
ClusterName=try
SlurmctldHost=$(hostname)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=$(hostname) CPUs=8 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
    munge -n > /dev/null 2>&1 || { mkdir -p /run/munge && chown munge:munge /run/munge && runuser -u munge -- munged; }
    slurmctld -c
    slurmd -c
    trap 'pkill -F slurmd.pid; pkill -F slurmctld.pid' EXIT
    ended() { while [ -n "$(squeue -h)" ]; do sleep 1; done; }
    sbatch --array=1-4 --cpus-per-task=1 --mem=100 "$here/slurm.sbatch" src slurm "${args[@]}"
    ended
    [ ! -e slurm ] || { echo "a unit was killed, and it was joined all the same"; exit 1; }
    UNITS=4 sbatch --array=2 --cpus-per-task=1 --mem=100 "$here/slurm.sbatch" src slurm "${args[@]}"
    ended
    same slurm
    rm killed
else
    echo "slurm: not there, not tried"
fi
if "$python" -c 'import ray' 2> /dev/null; then
    "$python" "$here/ray_driver.py" src ray-out 4 "${args[@]}"
    same ray-out
else
    echo "ray: not there, not tried"
fi
