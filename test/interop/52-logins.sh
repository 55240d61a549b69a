#!/bin/bash
# msmtp, curl, gsasl, s-nail and Python's smtplib log in: SCRAM, tokens, certificates. Then somebody guesses passwords.
. "${BASH_SOURCE[0]%/*}/lib.sh"

# The certificate of alice, as a client, by the authority of all others; and one of a stranger.
person() { # NAME ADDRESS
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -batch -subj "/CN=$1" -keyout "$W/$1.key" -out "$W/$1.csr"
	printf 'subjectAltName=email:%s\nextendedKeyUsage=clientAuth\n' "$2" >"$W/$1.ext"
	openssl x509 -req -days 1 -in "$W/$1.csr" -CA "$TLS/ca.pem" -CAkey "$TLS/ca.key" -set_serial "$3" -extfile "$W/$1.ext" -out "$W/$1.pem"
	chmod 644 "$W/$1.key"
}
{
	person alice alice@ours.test 101
	person stranger stranger@ours.test 102
} >"$W/openssl" 2>&1

cat >"$W/token-check" <<'END'
#!/bin/sh
read -r token
[ "$token" = "ya29.good-token" ] || exit 77
echo alice
END
chmod 755 "$W/token-check"

postel <<END
[auth]
token_check = "$W/token-check"
END
echo "client_ca = \"$TLS/ca.pem\"" >>"$POSTEL_CONFIG" # [tls] is the last table
root clients
submission
final_delivery
runner

FROM=alice@ours.test TO=bob@ours.test TOKEN=ya29.good-token
submit() { letter $FROM $TO "$1" >"$W/letter"; }
cat >"$W/ehlo.py" <<'END'
import smtplib, ssl, sys
with smtplib.SMTP("mail.ours.test", 587) as s:
    s.ehlo()
    before = s.esmtp_features.get("auth")
    s.starttls(context=ssl.create_default_context(cafile=sys.argv[1]))
    s.ehlo()
    print(before, "then", s.esmtp_features["auth"].strip())
END
offer() { in_clients python3 "$W/ehlo.py" "$TLS/ca.pem"; }
offered() { [ "$(offer)" = "None then SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN OAUTHBEARER XOAUTH2" ]; }
check "the offer, before and after STARTTLS" offered

# by_msmtp SUBJECT AUTH PASSWORD [LINE...]
by_msmtp() {
	submit "$1"
	printf '%s\n' defaults "host mail.ours.test" "port 587" "from $FROM" "user alice" "auth $2" "password \"$3\"" "tls on" "tls_trust_file $TLS/ca.pem" \
		"${@:4}" "account default" >"$W/msmtprc"
	chmod 600 "$W/msmtprc"
	in_clients msmtp -C "$W/msmtprc" -- $TO <"$W/letter"
}
by_certificate() { by_msmtp "$1" external "" "tls_cert_file $2.pem" "tls_key_file $2.key"; }
check "msmtp logs in by SCRAM-SHA-256" by_msmtp "msmtp scram" scram-sha-256 "$PASSWORD"
check "msmtp logs in by OAUTHBEARER" by_msmtp "msmtp oauthbearer" oauthbearer $TOKEN
check "msmtp logs in by XOAUTH2" by_msmtp "msmtp xoauth2" xoauth2 $TOKEN
check "msmtp logs in by EXTERNAL" by_certificate "msmtp external" "$W/alice"
check "msmtp: a wrong password by SCRAM-SHA-256" fails 77 by_msmtp "no" scram-sha-256 "wrong"
check "msmtp: a wrong token by OAUTHBEARER" fails 77 by_msmtp "no" oauthbearer "wrong"
check "msmtp: a wrong token by XOAUTH2" fails 77 by_msmtp "no" xoauth2 "wrong"
check "which the log says" logged submission 'event=login-failed user=alice .*token check.*exit status 77'
check "msmtp: the certificate of somebody who is no user" fails 77 by_certificate "no" "$W/stranger"

# by_curl SUBJECT FLAG...
by_curl() {
	submit "$1"
	in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:" --mail-from $FROM --mail-rcpt $TO --crlf --upload-file "$W/letter" smtp://mail.ours.test:587 "${@:2}"
}
check "curl logs in by OAUTHBEARER" by_curl "curl oauthbearer" --oauth2-bearer $TOKEN --login-options AUTH=OAUTHBEARER
check "curl logs in by XOAUTH2" by_curl "curl xoauth2" --oauth2-bearer $TOKEN --login-options AUTH=XOAUTH2
check "curl logs in by EXTERNAL" by_curl "curl external" --cert "$W/alice.pem" --key "$W/alice.key" --login-options AUTH=EXTERNAL
CURL_LOGIN_DENIED=67
check "curl: a wrong token" fails $CURL_LOGIN_DENIED by_curl "no" --oauth2-bearer wrong --login-options AUTH=OAUTHBEARER
for subject in "msmtp scram" "msmtp oauthbearer" "msmtp xoauth2" "msmtp external" "curl oauthbearer" "curl xoauth2" "curl external"; do
	check "$subject: it arrives as it was sent" arrives "$(inbox bob)" "$subject"
done

by_gsasl() { # MECHANISM PASSWORD [FLAG]
	in_clients gsasl --smtp --connect=mail.ours.test:587 --x509-ca-file="$TLS/ca.pem" --mechanism="$1" --authentication-id=alice --password="$2" --no-client-first "${@:3}" </dev/null
}
authenticated() { by_gsasl "$@" 2>&1 | grep 'Client authentication finished (server trusted)'; }
check "gsasl logs in by SCRAM-SHA-256-PLUS, tls-exporter" authenticated SCRAM-SHA-256-PLUS "$PASSWORD"
check "gsasl logs in by SCRAM-SHA-256, without a binding" authenticated SCRAM-SHA-256 "$PASSWORD" --no-cb
check "gsasl: a wrong password by SCRAM-SHA-256-PLUS" not authenticated SCRAM-SHA-256-PLUS "wrong"

# Our own client chooses the strongest, which is bound to the session.
cat >"$W/relay.toml" <<END
hostname = "relay.ours.test"
spool    = "$W/relay"
domains  = []
aliases  = "/nonexistent"
[routes]
"*" = "smtp://alice@mail.ours.test:587"
[smtp]
credentials = "$W/credentials"
[dns]
servers = ["$DNS"]
END
echo "mail.ours.test alice $PASSWORD" >"$W/credentials"
chmod 600 "$W/credentials"
by_qmgr() {
	submit qmgr
	sendmail -C "$W/relay.toml" -f $FROM $TO <"$W/letter" && SSL_CERT_FILE="$TLS/ca.pem" qmgr -C "$W/relay.toml" --once
}
check "our own qmgr logs in" by_qmgr
check "qmgr: it arrives" within 10 found "$(inbox bob)" qmgr

# Somebody guesses. The clients are at the address of the server, which alice has logged in from before, and bob has not.
cat >"$W/guess.py" <<'END'
import smtplib, ssl, sys
ca, user, *passwords = sys.argv[1:]
def login(password):
    with smtplib.SMTP("mail.ours.test", 587) as s:
        s.starttls(context=ssl.create_default_context(cafile=ca))
        s.ehlo()
        s.user, s.password = user, password
        try:
            return s.auth("PLAIN", s.auth_plain)[0]
        except smtplib.SMTPAuthenticationError as e:
            return e.smtp_code
print([login(p) for p in passwords][-1])
END
guess() { in_clients python3 "$W/guess.py" "$TLS/ca.pem" "$@"; }
ten() { guess bob a b c d e f g h i j && logged submission 'event=banned client=192.0.2.25 .*delay=600'; }
check "ten wrong passwords bring a ban" ten
answered() { # CODE USER PASSWORD
	local got
	got=$(guess "${@:2}")
	echo "answer $got, want $1"
	[ "$got" = "$1" ]
}
check "the right one is not looked at then" answered 421 bob "$PASSWORD"
check "alice, who has logged in from there before, still can" answered 235 alice "$PASSWORD"
