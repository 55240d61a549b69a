#!/bin/bash
# Each run script of contrib/s6, under s6's own supervision.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/installed.sh"

installed
in_clients rmdir /run/postel # the scripts make it
start s6 in_clients s6-svscan "$W/contrib/s6"
wait_port $OURS 25 465 587 110 995
all_ports s6
lmtp_takes() {
	letter carol@peer.test bob@ours.test "by lmtp" >"$W/letter"
	in_clients swaks --protocol LMTP --socket /run/postel/lmtp.sock --from carol@peer.test --to bob@ours.test --data "@$W/letter"
}
check "s6: lmtpd takes mail" lmtp_takes
check "s6: it arrives as it was sent" arrives "$ROOT_clients/home/bob/Maildir" "by lmtp"
check "s6: qmgr delivers what smtpd took" within 10 found_all "$ROOT_clients/home/alice/Maildir" s6 4
for service in "$W"/contrib/s6/*; do
	name=$(basename "$service")
	up() { in_clients s6-svstat -o up "$service" | grep -x true; }
	check "s6: $name is up" up
	restarts() {
		local pid
		pid=$(in_clients s6-svstat -o pid "$service")
		in_clients s6-svc -r -wr -T 10000 "$service" && [ "$(in_clients s6-svstat -o pid "$service")" != "$pid" ]
	}
	check "s6: $name ends when told and is started again" restarts
	check "s6: $name goes down" in_clients s6-svc -d -wD -T 10000 "$service"
done
in_clients s6-svscanctl -t "$W/contrib/s6"
