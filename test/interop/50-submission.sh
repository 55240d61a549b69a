#!/bin/bash
# curl, swaks, msmtp, s-nail and Python submit mail: STARTTLS and AUTH on 587, TLS from the start on 465.
. "${BASH_SOURCE[0]%/*}/lib.sh"

postel
root clients
submission
exchanger
final_delivery
runner

FROM=alice@ours.test TO=bob@ours.test
submit() { letter $FROM $TO "$1" >"$W/letter"; }

# by_curl SUBJECT URL [FLAG...]
by_curl() {
	submit "$1"
	in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" --mail-from $FROM --mail-rcpt $TO --crlf --upload-file "$W/letter" "${@:2}"
}
check "curl submits, STARTTLS" by_curl "curl 587" smtp://mail.ours.test:587
check "curl submits, TLS" by_curl "curl 465" smtps://mail.ours.test:465
check "curl submits, AUTH LOGIN" by_curl "curl login" smtp://mail.ours.test:587 --login-options AUTH=LOGIN
for subject in "curl 587" "curl 465" "curl login"; do
	check "$subject: it arrives as it was sent" arrives "$(inbox bob)" "$subject"
done
check "the log says who" logged submission 'event=accepted.*from=<\{0,1\}alice@ours.test.*proto=ESMTPSA auth=alice'
CURL_LOGIN_DENIED=67
check "a wrong password is refused" fails $CURL_LOGIN_DENIED by_curl "wrong" smtp://mail.ours.test:587 -u "alice:wrong"
check "and logged" logged submission 'event=login-failed.*user=alice'

# by_swaks SUBJECT FLAG...
by_swaks() {
	submit "$1"
	in_clients swaks --server mail.ours.test --ehlo client.test --from $FROM --to $TO --data "@$W/letter" "${@:2}"
}
AUTH=(--auth-user alice --auth-password "$PASSWORD")
check "swaks submits, STARTTLS, AUTH PLAIN" by_swaks "swaks plain" --port 587 -tls --auth PLAIN "${AUTH[@]}"
check "swaks submits, STARTTLS, AUTH LOGIN" by_swaks "swaks login" --port 587 -tls --auth LOGIN "${AUTH[@]}"
check "swaks submits, TLS" by_swaks "swaks tls" --port 465 -tlsc --auth PLAIN "${AUTH[@]}"
check "swaks submits, everything in one packet" by_swaks "swaks pipeline" --port 587 -tls --auth PLAIN "${AUTH[@]}" --pipeline
for subject in "swaks plain" "swaks login" "swaks tls" "swaks pipeline"; do
	check "$subject: it arrives as it was sent" arrives "$(inbox bob)" "$subject"
done
# swaks' exit statuses: 28 AUTH refused, 24 RCPT refused, 23 MAIL refused
check "AUTH is not offered before STARTTLS" fails 28 by_swaks "no tls" --port 587 --auth PLAIN "${AUTH[@]}"
no_mail() { by_swaks "no auth" --port 587 -tls | grep '^<[~*]* *530 5.7.0'; }
check "no mail without AUTH" no_mail
relay_denied() { by_swaks "relay" --port 25 --to someone@peer.test | grep '^<[~*]* *550 5.7.1'; }
check "port 25 relays for nobody" relay_denied
check "port 25 takes mail for our users without AUTH" by_swaks "exchanger" --port 25
check "it arrives as it was sent" arrives "$(inbox bob)" "exchanger"

cat >"$W/msmtprc" <<END
defaults
host mail.ours.test
from $FROM
user alice
password "$PASSWORD"
auth on
tls on
tls_trust_file $TLS/ca.pem
account starttls
port 587
account tls
port 465
tls_starttls off
END
chmod 600 "$W/msmtprc"
by_msmtp() {
	submit "$1"
	in_clients msmtp -C "$W/msmtprc" "${@:2}" -- $TO <"$W/letter"
}
check "msmtp submits, STARTTLS" by_msmtp "msmtp 587" -a starttls
check "msmtp submits, TLS" by_msmtp "msmtp 465" -a tls
for subject in "msmtp 587" "msmtp 465"; do
	check "$subject: it arrives as it was sent" arrives "$(inbox bob)" "$subject"
done

by_s_nail() {
	submit s-nail
	in_clients s-nail -:/ -Sttycharset=utf-8 -Ssendcharsets=utf-8 -Sv15-compat -Ssmtp-use-starttls -Stls-ca-file="$TLS/ca.pem" -Stls-verify=strict -Ssmtp-auth=plain \
		-Smta="smtp://alice:${PASSWORD// /%20}@mail.ours.test:587" -Sfrom=$FROM -Shostname=ours.test -Ssendwait -s "s-nail" $TO <"$W/letter"
}
check "s-nail submits, STARTTLS" by_s_nail
check "s-nail: it arrives" within 10 found "$(inbox bob)" s-nail

by_python() {
	in_clients python3 - "$TLS/ca.pem" "$PASSWORD" "$W/letter" <<-'END'
		import smtplib, ssl, sys
		ca, password, letter = sys.argv[1:]
		letter = open(letter, "rb").read().replace(b"\n", b"\r\n")
		with smtplib.SMTP("mail.ours.test", 587) as s:
		    s.starttls(context=ssl.create_default_context(cafile=ca))
		    s.login("alice@ours.test", password)
		    for n in range(3):
		        s.sendmail("alice@ours.test", ["bob@ours.test"], letter)
	END
}
submit python
check "Python's smtplib submits three over one connection, as alice@ours.test" by_python
three() { [ "$(grep -ls '^Subject: python' "$(inbox bob)"/new/* | wc -l)" = 3 ]; }
check "all three arrive" within 10 three

large $FROM $TO large >"$W/large"
by_curl_large() {
	in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" --mail-from $FROM --mail-rcpt $TO --crlf --upload-file "$W/large" smtp://mail.ours.test:587
}
check "20 MB are submitted" by_curl_large
check "they arrive" within 20 found "$(inbox bob)" large
check "and are the same 20 MB" same_large "$LETTER"
