#!/bin/bash
# Postfix delivers to our smtpd, found by MX, and to our lmtpd over a UNIX socket and over TCP.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel
exchanger
final_delivery
runner
postfix <<END
transport_maps = inline:{ lmtp.test=lmtp:unix:$W/postel/lmtp.sock }
END

# send FROM TO... SUBJECT: by Postfix's own sendmail
send() {
	local from=$1 subject=${*: -1}
	letter "$from" "$2" "$subject" | in_postfix /usr/sbin/sendmail -i -f "$from" "${@:2:$#-2}"
}
postfix_empty() { in_postfix mailq | grep 'queue is empty'; }
relayed() { within 10 logged postfix "to=<$1>.* relay=$2.* status=$3 ($4"; }

send carol@peer.test alice@ours.test "by MX"
check "by MX: it arrives as it was sent" arrives "$(inbox alice)" "by MX"
check "by MX: over TLS, as the Received field says" grep -q 'with ESMTPS' "${LETTER:-/dev/null}"
check "by MX: the sender is in Return-Path" grep -qix 'Return-Path: <carol@peer.test>.\{0,1\}' "${LETTER:-/dev/null}"
check "by MX: Postfix trusts the certificate" logged postfix 'Trusted TLS connection established to mail.ours.test'
check "by MX: Postfix logs our queue id" relayed alice@ours.test mail.ours.test sent '250 2.0.0 Ok: queued as [0-9A-Za-z]'

send carol@peer.test alice@ours.test bob@ours.test "to two"
check "two recipients: the first has it" arrives "$(inbox alice)" "to two"
check "two recipients: so has the second" arrives "$(inbox bob)" "to two"

send carol@peer.test alice+lists@ours.test POSTMASTER@ours.test "to extension and alias"
check "user+extension arrives" arrives "$(inbox alice)" "to extension and alias"
check "postmaster arrives by the aliases" arrives "$(inbox carol)" "to extension and alias"

send carol@peer.test stranger@ours.test "to a stranger"
check "an unknown user is refused at RCPT" relayed stranger@ours.test mail.ours.test bounced "host mail.ours.test.* said: 550 5.1.1"
check "and Postfix tells the sender" bounced "$(postfix_inbox carol)" '550 5.1.1'

send '' alice@ours.test "null sender"
check "the null sender is taken" arrives "$(inbox alice)" "null sender"

large carol@peer.test alice@ours.test large >"$W/large"
in_postfix /usr/sbin/sendmail -i -f carol@peer.test alice@ours.test <"$W/large"
check "20 MB arrive" within 20 found "$(inbox alice)" large
check "and are the same 20 MB" same_large "$LETTER"

send carol@peer.test alice@lmtp.test bob@lmtp.test stranger@lmtp.test "by LMTP"
check "LMTP: the first recipient has it" arrives "$(inbox alice)" "by LMTP"
check "LMTP: so has the second" arrives "$(inbox bob)" "by LMTP"
check "LMTP: each recipient has an answer: sent" relayed alice@lmtp.test '[^ ]*lmtp.sock' sent 250
check "LMTP: each recipient has an answer: refused" relayed stranger@lmtp.test '[^ ]*lmtp.sock' bounced '.*550 5.1.1'

postfix_set "transport_maps = inline:{ lmtp.test=lmtp:inet:[$OURS]:24 }"
send carol@peer.test alice@lmtp.test "by LMTP over TCP"
check "LMTP over TCP arrives" arrives "$(inbox alice)" "by LMTP over TCP"

check "nothing is left in our queue" within 10 empty_queue
check "nothing is left in Postfix's queue" within 10 postfix_empty
