# shellcheck shell=bash disable=SC2154 # the variables are lib.sh's
# installed.sh: postel installed in the clients' root as contrib/ expects it: programs in /usr/local/bin, configuration in
# /etc/postel, user postel; so the files of contrib/ are used as they are. Sourced after lib.sh.

installed() {
	unset POSTEL_CONFIG
	root clients
	cp -r "$TOP/contrib" "$W/contrib"
	local etc=$ROOT_clients/etc/postel user uid=2001
	mkdir -p "$etc/tls"
	cp "$TLS/cert.pem" "$TLS/key.pem" "$etc/tls/"
	for user in alice bob carol; do
		echo "$user:{PLAIN}$PASSWORD:$uid:$uid::/home/$user::"
		uid=$((uid + 1))
	done >"$etc/users"
	in_clients chown postel /etc/postel/users /etc/postel/tls/key.pem
	chmod 600 "$etc/users" "$etc/tls/key.pem"
	cat >"$etc/postel.toml" <<-END
		hostname = "mail.ours.test"
		domains  = ["ours.test"]
		users    = "/etc/postel/users"
		local    = "lmtp:///run/postel/lmtp.sock"
		relay_networks = []
	END
	in_clients install -d -m 711 -o postel -g postel /var/spool/postel
	in_clients install -d -m 755 /run/postel
	letter carol@peer.test alice@ours.test "to be fetched" | in_clients deliver -f carol@peer.test alice@ours.test
	found "$ROOT_clients/home/alice/Maildir" "to be fetched"
}

# What a client sees on each port. SUBJECT tells one use from another.
client_mails() { # client_mails PORT SUBJECT [swaks' flags]
	letter carol@peer.test alice@ours.test "$2" >"$W/letter"
	in_clients swaks --server mail.ours.test --port "$1" --ehlo client.test --from carol@peer.test --to alice@ours.test --data "@$W/letter" "${@:3}" >"$W/dialog"
	cat "$W/dialog"
	grep -q '^<.* 250 2.0.0 Ok: queued as ' "$W/dialog"
}
client_submits() { client_mails "$1" "$2" "${@:3}" --from alice@ours.test --auth PLAIN --auth-user alice --auth-password "$PASSWORD"; }
client_fetches() { # client_fetches URL
	in_clients curl -sS --ssl-reqd --cacert "$TLS/ca.pem" -u "alice:$PASSWORD" "$1" >"$W/got"
	grep '^Subject: to be fetched' "$W/got" && same_body "$W/got"
}
# all_ports NAME: each of the five ports does its work
all_ports() {
	check "$1: 25 takes mail" client_mails 25 "$1"
	check "$1: 25 takes mail over STARTTLS" client_mails 25 "$1" -tls
	check "$1: 587 takes mail, STARTTLS and AUTH" client_submits 587 "$1" -tls
	check "$1: 465 takes mail, TLS and AUTH" client_submits 465 "$1" -tlsc
	check "$1: 110 gives mail, STLS" client_fetches pop3://mail.ours.test/1
	check "$1: 995 gives mail, TLS" client_fetches pop3s://mail.ours.test/1
}
queued() { find "$ROOT_clients/var/spool/postel/queue" -type f | wc -l; }
running() { pgrep -cx "$1" || :; } # how many processes of that name
