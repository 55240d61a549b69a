# shellcheck shell=bash disable=SC2154 # the variables are lib.sh's
# box.sh: box.test, a host without any configuration whose programs mail its users; all inside the clients' root, where
# our programs are in /usr/local/bin and /usr/sbin/sendmail is ours. The programs run as root, since only root and the spool's
# owner may write the queue. Sourced after lib.sh.

box() {
	unset POSTEL_CONFIG
	root clients
	ln -s /usr/local/bin/sendmail "$ROOT_clients/usr/sbin/sendmail"
	ln -s ../sbin/sendmail "$ROOT_clients/usr/lib/sendmail"
	echo '127.0.0.1 localhost box.test box' >"$ROOT_clients/etc/hosts"
	start qmgr in_clients /usr/local/bin/qmgr
	within 10 logged qmgr event=start
}
home_of() { echo "$ROOT_clients/home/$1"; }
# as_root [NAME=VALUE...] COMMAND...: with the environment of a login
as_root() { in_clients env -C /root -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root LOGNAME=root LC_ALL=C "$@"; }
