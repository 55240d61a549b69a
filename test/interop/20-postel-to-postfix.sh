#!/bin/bash
# Our runner delivers to Postfix by SMTP: by MX, past a dead host, through a smart host; and takes its refusals as they are meant.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel <<END
[dns]
servers = ["$DNS:53"]
[smtp]
bind = ["$OURS"]
[queue]
retry = ["1s", "7s"] # longer than a session is kept: Postfix must be asked anew
[routes]
"smart.test" = "smtp://mx.peer.test"
END
postfix <<END
relay_domains = smart.test
transport_maps = inline:{ smart.test=local: }
smtpd_recipient_restrictions = check_recipient_access inline:{ { later@peer.test = 450 4.2.1 come back later } }
END
root clients
final_delivery
runner

# send FROM TO... SUBJECT
send() {
	local from=$1 subject=${*: -1}
	letter "$from" "$2" "$subject" | sendmail -i -f "$from" "${@:2:$#-2}"
}
all_have() {
	local user
	for user in alice bob carol; do arrives "$(postfix_inbox $user)" "$1" || return; done
}
reports() { cat "$(inbox alice)"/new/*; }
names_address() { reports | grep -qi "^Final-Recipient: rfc822; *$1"; }
names_status() { reports | grep -qi "^Status: $1"; }
shown() { mailq "${@:2}" | grep "$1"; }
parses() { mailq --json | chroot "$ROOT_clients" python3 -c 'import json, sys; [print(json.loads(l)["id"]) for l in sys.stdin]'; }

send alice@ours.test carol@peer.test "by MX"
check "by MX: it arrives as it was sent" arrives "$(postfix_inbox carol)" "by MX"
check "by MX: over TLS, as Postfix's Received field says" grep -q 'using TLSv1.3' "${LETTER:-/dev/null}"
check "by MX: the sender is in Return-Path" grep -qx 'Return-Path: <alice@ours.test>' "${LETTER:-/dev/null}"
check "by MX: our log has Postfix's reply" within 5 logged qmgr 'event=delivered.*relay=.*mx.peer.test.*code=250.*queued as'

send alice@ours.test alice@peer.test bob@peer.test carol@peer.test "to three"
check "three recipients of one host: all have it" all_have "to three"
check "they went in one transaction" logged postfix 'from=<alice@ours.test>, .*nrcpt=3'

send alice@ours.test carol@second.test "second host"
check "the first MX is dead: the second takes it" arrives "$(postfix_inbox carol)" "second host"

send alice@ours.test carol@peer.test bob@ours.test "here and there"
check "a local and a remote recipient: there" arrives "$(postfix_inbox carol)" "here and there"
check "a local and a remote recipient: here" arrives "$(inbox bob)" "here and there"

send alice@ours.test stranger@peer.test carol@peer.test "one is refused"
check "one of two refused: the other has it" arrives "$(postfix_inbox carol)" "one is refused"
check "one of two refused: the sender is told, with Postfix's words" bounced "$(inbox alice)" 'User unknown in local recipient table'
check "the report names the address" names_address stranger@peer.test
check "the report names the status" names_status 5.1.1

send alice@ours.test someone@null.test "takes no mail"
check "null MX (RFC 7505): the sender is told" bounced "$(inbox alice)" 'someone@null.test'
send alice@ours.test someone@nowhere.test "no such domain"
check "no such domain: the sender is told" bounced "$(inbox alice)" 'someone@nowhere.test'
send '' stranger@peer.test "from nobody"
check "null sender refused: no report about a report" within 10 logged qmgr 'event=bounced.*to=.*stranger@peer.test'

in_postfix useradd -m later
send alice@ours.test later@peer.test "deferred"
check "450: it is deferred with Postfix's words" within 10 logged qmgr 'event=deferred.*to=.*later@peer.test.*code=450.*come back later'
check "450: mailq shows it" shown later@peer.test
check "450: mailq shows it as JSON" parses
postfix_set smtpd_recipient_restrictions=
SLOW=20 check "450: it goes by itself when Postfix takes it" arrives "$(postfix_inbox later)" "deferred"

send alice@ours.test carol@smart.test "by route"
check "a route to a fixed host: Postfix takes it" within 10 logged postfix 'to=<carol@smart.test>'

check "nothing is left in our queue" within 10 empty_queue
stop "$RUNNER"
sed -i 's/^bind =/tls = "require"\n&/' "$POSTEL_CONFIG"
postfix_set smtpd_tls_security_level=none
runner
send alice@ours.test carol@peer.test "TLS required"
check 'tls = "require" and a host without: it waits' within 10 logged qmgr 'event=deferred.*carol@peer.test'
postfix_set smtpd_tls_security_level=may
check 'tls = "require": it goes when the host has it' arrives "$(postfix_inbox carol)" "TLS required"
