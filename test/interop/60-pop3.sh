#!/bin/bash
# fetchmail, mpop and curl fetch from our pop3d: STLS on 110, TLS on 995.
. "${BASH_SOURCE[0]%/*}/lib.sh"

postel
root clients
final_delivery
runner
pop3

# fill USER: three letters
fill() {
	local n
	for n in 1 2 3; do # one after the other: they are listed as they came
		letter carol@peer.test "$1@ours.test" "letter $n" | sendmail -i -f carol@peer.test "$1@ours.test"
		within 10 found "$(inbox "$1")" "letter $n"
	done
}
fill alice
as_alice() { in_clients setpriv --reuid alice --regid alice --clear-groups env HOME=/home/alice "$@"; }
secret() { # secret FILE: what stdin has, for alice's eyes
	cat >"$ROOT_clients/home/alice/$1"
	chown 2001:2001 "$ROOT_clients/home/alice/$1"
	chmod 600 "$ROOT_clients/home/alice/$1"
}
got() { # got MAILDIR: three letters as they were sent
	local n
	for n in 1 2 3; do found "$1" "letter $n" && same_body "$LETTER" || return; done
}
maildir_for_alice() { as_alice mkdir -p "/home/alice/$1/new" "/home/alice/$1/cur" "/home/alice/$1/tmp"; }
left() { [ "$(find "$(inbox "$1")/new" "$(inbox "$1")/cur" -type f | wc -l)" = "$2" ]; }

by_curl() { in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" "$@"; }
curl_lists() { [ "$(by_curl "$1" | wc -l)" = 3 ]; }
curl_gets() { by_curl "$1" >"$W/got" && grep '^Subject: letter 2' "$W/got" && same_body "$W/got"; }
check "curl lists, STLS" curl_lists pop3://mail.ours.test/
check "curl lists, TLS" curl_lists pop3s://mail.ours.test/
check "curl gets the second, STLS" curl_gets pop3://mail.ours.test/2
check "curl gets the second, TLS" curl_gets pop3s://mail.ours.test/2
check "curl asks for unique ids" by_curl pop3://mail.ours.test/ -X UIDL
CURL_LOGIN_DENIED=67
check "curl with a wrong password is refused" fails $CURL_LOGIN_DENIED by_curl pop3://mail.ours.test/ -u alice:wrong
check "curl without TLS is refused" fails $CURL_LOGIN_DENIED in_clients curl -sS -u "alice:$PASSWORD" pop3://mail.ours.test/

secret .mpoprc <<END
account default
host mail.ours.test
user alice
password "$PASSWORD"
auth user
tls on
tls_starttls on
tls_trust_file $TLS/ca.pem
keep on
delivery maildir ~/mpop
END
maildir_for_alice mpop
mpop() { as_alice mpop --uidls-file=/home/alice/uidls "$@"; }
check "mpop fetches and leaves, STLS" mpop
check "mpop has all as they were sent" got "$ROOT_clients/home/alice/mpop"
rm -rf "$ROOT_clients/home/alice/mpop" "$ROOT_clients/home/alice/uidls"
maildir_for_alice mpop
check "mpop fetches, TLS" mpop --tls-starttls=off --port=995
check "mpop has all again" got "$ROOT_clients/home/alice/mpop"
check "all are left on the server" left alice 3

secret .fetchmailrc <<END
set no syslog
poll mail.ours.test with protocol POP3 service 110 uidl
	username alice password "$PASSWORD"
	ssl sslproto "" sslcertck sslcertfile "$TLS/ca.pem"
	mda "cat >/home/alice/fetchmail/new/1.\$\$.host"
	keep
END
sed -i 's/^\tssl sslproto ""/\tsslproto "tls1.2+"/' "$ROOT_clients/home/alice/.fetchmailrc"
maildir_for_alice fetchmail
fetchmail() { as_alice fetchmail --nosyslog --nodetach -v "$@"; }
check "fetchmail fetches and leaves, STLS" fetchmail
check "fetchmail has all as they were sent" got "$ROOT_clients/home/alice/fetchmail"
fetchmail_nothing() { fails 1 fetchmail; }
check "fetchmail knows them by their unique ids" fetchmail_nothing
rm -rf "$ROOT_clients/home/alice/fetchmail"
maildir_for_alice fetchmail
check "fetchmail fetches all and deletes, TLS" fetchmail --fetchall --nokeep --ssl --service 995
check "fetchmail has all again" got "$ROOT_clients/home/alice/fetchmail"
check "the mailbox is empty then" left alice 0
check "the log counts what was fetched and removed" logged pop3ds 'event=fetched user=alice.*n=3.*removed=3'
