#!/bin/bash
# Our runner delivers to Dovecot's LMTP over a UNIX socket and over TCP, with an answer for each recipient.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel <<END
[routes]
"dove.test" = "lmtp://$W/dovecot.sock"
"tcp.test"  = "lmtp://dove.test:24"
[dns]
servers = ["$DNS:53"]
END
dovecot
final_delivery
runner

send() { # send TO... SUBJECT
	letter alice@ours.test "$1" "${*: -1}" | sendmail -i -f alice@ours.test "${@:1:$#-1}"
}
all_have() {
	local user
	for user in alice bob carol; do arrives "$(dovecot_inbox $user)" "$1" || return; done
}

send bob@dove.test "UNIX socket"
check "UNIX socket: it arrives as it was sent" arrives "$(dovecot_inbox bob)" "UNIX socket"
check "UNIX socket: Dovecot has the sender" grep -q '^Return-Path: <alice@ours.test>' "${LETTER:-/dev/null}"
check "our log has Dovecot's reply" within 5 logged qmgr 'event=delivered.*bob@dove.test.*code=250.*Saved'

send bob@tcp.test "TCP"
check "TCP: it arrives as it was sent" arrives "$(dovecot_inbox bob)" "TCP"

send alice@dove.test bob+box@dove.test stranger@dove.test carol@dove.test "to four"
check "four recipients, one unknown: three have it" all_have "to four"
check "the unknown one is reported with Dovecot's words" bounced "$(inbox alice)" "User doesn't exist"

# Dovecot refuses after the message for one recipient only: its mailbox is not a folder.
in_dovecot sh -c 'rm -rf /home/carol/Maildir && touch /home/carol/Maildir'
send bob@dove.test carol@dove.test "one fails after DATA"
check "one mailbox fails after the message: the other has it" arrives "$(dovecot_inbox bob)" "one fails after DATA"
check "and that one alone is tried again" within 10 logged qmgr 'event=deferred.*carol@dove.test.*code=4'
in_dovecot rm /home/carol/Maildir
mailq retry >/dev/null
check "mailq retry: it arrives" arrives "$(dovecot_inbox carol)" "one fails after DATA"
check "and the other has no second one" arrives "$(dovecot_inbox bob)" "one fails after DATA"

large alice@ours.test bob@dove.test large >"$W/large"
sendmail -i -f alice@ours.test bob@dove.test <"$W/large"
check "20 MB arrive" within 20 found "$(dovecot_inbox bob)" large
check "and are the same 20 MB" same_large "$LETTER"
check "nothing is left in our queue" within 10 empty_queue
