#!/usr/bin/env bash
# Installs what a private Slurm cluster needs (see slurm_cluster.sh): the Slurm
# daemons and commands, munge, MariaDB; and shellcheck and curl for the checks.
# Starts no service.  Run again, it finds everything there.
#
# Exit status: 0 all there; 3 cannot be had on this machine (one line says why).
set -euo pipefail
PROGRAM=slurm_packages
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

apt_install slurmctld slurmd slurm-client slurmdbd munge mariadb-server shellcheck curl
say "Slurm $(dpkg-query -W -f '${Version}' slurmctld) is installed"
