#!/bin/bash
# Dovecot and mutt read the Maildir and the mbox that our delivery wrote, and our pop3d reads what they left.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel
root clients
dovecot <<END
protocols = imap lmtp
mail_location = maildir:$W/home/%n/Maildir
END
final_delivery
runner
pop3

MAILDIR=$(inbox alice)
for n in 1 2 3; do
	letter carol@peer.test alice@ours.test "letter $n" | sendmail -i -f carol@peer.test alice@ours.test
	check "letter $n is delivered" arrives "$MAILDIR" "letter $n"
done

# Dovecot, through curl
imap() { # imap PATH [FLAG...]
	in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" "imap://dove.test/$1" "${@:2}" | tr -d '\r'
}
imap_counts() { imap "" -X "STATUS INBOX (MESSAGES UNSEEN)" | grep -Fx "* STATUS INBOX (MESSAGES $1 UNSEEN $2)"; }
imap_gives() { imap "INBOX;MAILINDEX=$1" >"$W/got" && grep "^Subject: $2" "$W/got" && same_body "$W/got"; }
check "Dovecot counts three, all new" imap_counts 3 3
check "Dovecot gives the second as it was sent" imap_gives 2 "letter 2"
check "Dovecot has marked it as seen" imap_counts 3 2
keeps_state() { find "$MAILDIR/cur" -name '*:2,S' | grep . && arrives "$MAILDIR" "letter 2"; }
check "its file moved to cur with the flag" keeps_state

# mutt, with keys pushed into it
mutt() { # mutt FOLDER KEYS
	printf '%s\n' 'set folder=~ sort=mailbox-order wait_key=no pipe_decode=no move=no delete=yes quit=yes mark_old=no' "push \"$2\"" >"$W/muttrc"
	in_clients setpriv --reuid alice --regid alice --clear-groups env HOME="$W/home/alice" TERM=vt100 \
		timeout 20 script -qec "mutt -n -F '$W/muttrc' -f '$1'" /dev/null
}
mutt_gives() { # mutt_gives FOLDER SUBJECT
	rm -f "$W/home/alice/piped"
	mutt "$1" "<limit>~s '$2'<enter><pipe-message>cat >~/piped<enter><exit>"
	cat -v "$W/home/alice/piped"
	grep "^Subject: $2" "$W/home/alice/piped"
}
mutt_piped_same() { same_body "$W/home/alice/piped"; }
check "mutt opens the Maildir and finds the third" mutt_gives "$MAILDIR" "letter 3"
check "mutt has it as it was sent" mutt_piped_same
mutt_deletes() { mutt "$MAILDIR" "<delete-pattern>~s 'letter 1'<enter><sync-mailbox><exit>" && not found "$MAILDIR" "letter 1"; }
check "mutt deletes the first" mutt_deletes
check "Dovecot sees that" imap_counts 2 1

pop3_list() { in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" "pop3://mail.ours.test/$1" "${@:2}" | tr -d '\r'; }
pop3_counts() { [ "$(pop3_list "" | wc -l)" = "$1" ]; }
pop3_gives() { pop3_list "$1" >"$W/got" && grep "^Subject: $2" "$W/got" && same_body "$W/got"; }
check "our pop3d lists what the two left" pop3_counts 2
check "our pop3d gives the letter that Dovecot moved" pop3_gives 1 "letter 2"
check "pop3d did not change the flags" imap_counts 2 1

# What Dovecot stores, our pop3d serves.
letter carol@peer.test alice@dove.test "from Dovecot" >"$W/letter"
dovecot_takes() {
	in_clients swaks --protocol LMTP --server dove.test --port 24 --from carol@peer.test --to alice@dove.test --data "@$W/letter"
}
check "Dovecot's LMTP stores beside ours" dovecot_takes
check "our pop3d serves it" pop3_gives 3 "from Dovecot"

# mbox: two letters by deliver, with From_ lines in their bodies
MBOX=$W/home/alice/mbox
for n in 1 2; do
	letter carol@peer.test alice@ours.test "mbox $n" | deliver -f carol@peer.test --to "mbox:$MBOX" alice@ours.test
done
check "mutt opens the mbox and finds the second" mutt_gives "$MBOX" "mbox 2"
dovecot_mbox() { in_dovecot doveadm -o "mail_location=mbox:$W/home/alice/none:INBOX=$MBOX" "$@"; }
mbox_counts() { dovecot_mbox mailbox status -u alice messages INBOX | grep -x "INBOX messages=$1"; }
check "Dovecot counts two in the mbox, not more" mbox_counts 2
