#!/bin/bash
# smtpd's TLS as openssl sees it, and what comes with it: binary messages and REQUIRETLS, onward to Postfix.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel <<END
[routes]
"peer.test" = "smtp://mx.peer.test"
[smtp]
bind = ["$OURS"]
[dns]
servers = ["$DNS:53"]
END
# certificate NAME HOST: a certificate for that host in NAME.pem, its key in NAME.key
certificate() {
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -x509 -days 1 -subj "/CN=$2" -addext "subjectAltName=DNS:$2" -keyout "$W/$1.key" -out "$W/$1.pem"
}
certificate second second.test
sed -i -e "s|^certificate.*|certificate = [\"$TLS/cert.pem\", \"$W/second.pem\"]|" -e "s|^key.*|key = [\"$TLS/key.pem\", \"$W/second.key\"]|" \
	-e "s|^relay_networks.*|relay_networks = [\"$OURS/32\"]|" "$POSTEL_CONFIG"
postfix
export SSL_CERT_FILE=$TLS/ca.pem
exchanger
final_delivery
runner

s_client() { openssl s_client -connect $OURS:25 -starttls smtp -name client.test "$@"; }
subject() { s_client "$@" <<<QUIT 2>&1 | grep "^subject="; }
for name in mail.ours.test second.test; do
	check "a client gets the certificate for $name" grep -q "CN = $name" <(subject -servername $name)
done
check "and the first where there is none" grep -q "CN = mail.ours.test" <(subject -servername other.test)
check "and the first when it asks for none" grep -q "CN = mail.ours.test" <(subject -noservername)
for version in tls1_2 tls1_3; do
	check "$version" grep -q "Verify return code: 0 (ok)" <(s_client -$version -CAfile "$TLS/ca.pem" <<<QUIT 2>&1)
done
check "no TLS 1.1" not s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 </dev/null

# Once there is a ticket the session goes on.
s_client -tls1_2 -sess_out "$W/session" <<<QUIT >/dev/null 2>&1
check "a session is resumed" grep -q "^Reused" <(s_client -tls1_2 -sess_in "$W/session" <<<QUIT 2>&1)

# Renewal: no signal, and sessions go on.
certificate new renewed.test
mv "$W/new.key" "$W/second.key"
mv "$W/new.pem" "$W/second.pem"
renewed() { subject -servername renewed.test | grep "CN = renewed.test"; }
check "a new certificate is found by itself" within 20 renewed
echo nonsense >"$W/second.pem"
failed_reload() { subject >"$W/subject" && logged smtpd event=reload-failed; }
check "a broken one is told" within 20 failed_reload
check "and the old one stays" grep -q "CN = renewed.test" <(subject -servername renewed.test)

# say TEXT: what the server says to octets, with printf's escapes, until it or they end.
# They go in one write: printf writes each line by itself, and the server could begin its handshake between two of them.
say() {
	exec 3<>/dev/tcp/$OURS/25
	# shellcheck disable=SC2059 # the format is the text
	printf "$1" >"$W/said"
	cat "$W/said" >&3
	timeout 10 cat <&3
	exec 3>&-
}
injected() { say 'EHLO client.test\r\nSTARTTLS\r\nMAIL FROM:<evil@peer.test>\r\nQUIT\r\n' | tail -1 | grep '^501 5.5.1'; }
check "commands behind STARTTLS are refused" injected
check "and logged" logged smtpd 'event=refused .*Nothing may follow STARTTLS'

# A binary message is lines in a Maildir and for Postfix, and decodes to what it was.
binary() {
	local head='Subject: binary\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n'
	# shellcheck disable=SC2059 # so is this
	say "EHLO client.test\r\nMAIL FROM:<alice@ours.test> BODY=BINARYMIME\r\nRCPT TO:<bob@ours.test>\r\nRCPT TO:<carol@peer.test>\r\nBDAT $(($(printf "$head" | wc -c) + 8)) LAST\r\n$head"'a\n.\n\000\377\rzQUIT\r\n' |
		grep '^250 2.0.0 Ok: queued'
}
check "a binary message is taken" binary
decoded() {
	within 10 found "$1" binary && grep -qi '^Content-Transfer-Encoding: base64' "$LETTER" &&
		cmp <(tr -d '\r' <"$LETTER" | sed '1,/^$/d' | base64 -d) <(printf 'a\n.\n\000\377\rz')
}
check "bob has it" decoded "$(inbox bob)"
check "Postfix's carol has it" decoded "$(postfix_inbox carol)"

# REQUIRETLS: Postfix does not know it, so that the message goes back.
require() {
	(
		sleep 1
		printf 'EHLO client.test\r\nMAIL FROM:<alice@ours.test> REQUIRETLS\r\nRCPT TO:<%s>\r\nDATA\r\n' "$1"
		sleep 1
		printf 'Subject: secret\r\n\r\nx\r\n.\r\nQUIT\r\n'
		sleep 1
	) | s_client -quiet
}
taken() { require "$1" 2>&1 | grep '^250 2.0.0 Ok: queued'; }
check "REQUIRETLS is taken under TLS" taken carol@peer.test
check "and comes back from where it is not offered" bounced "$(inbox alice)" '5\.7\.30 REQUIRETLS support required'
check "REQUIRETLS to a user here" taken bob@ours.test
check "arrives" within 10 found "$(inbox bob)" secret
clear() { say 'EHLO client.test\r\nMAIL FROM:<alice@ours.test> REQUIRETLS\r\nQUIT\r\n' | grep '^555 5.5.4'; }
check "and is not taken in the clear" clear

# Without a certificate.
sed -i -e "s|$TLS/cert.pem|/nonexistent|" "$POSTEL_CONFIG"
start unix smtpd --submission --listen "unix:$W/postel/submit.sock"
within 10 logged unix event=listening
check "the submit socket misses no certificate" not logged unix STARTTLS
start without smtpd --listen $OURS:2525
wait_port $OURS 2525
check "a server without one says so" logged without 'event=problem .*STARTTLS is not offered'
check "and works" grep -q "^250 ENHANCEDSTATUSCODES" <(exec 3<>/dev/tcp/$OURS/2525; printf 'EHLO x\r\nQUIT\r\n' >&3; cat <&3 | tr -d '\r')
