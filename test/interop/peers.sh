# shellcheck shell=bash disable=SC2154 # the variables are lib.sh's
# peers.sh: Postfix and Dovecot with the configuration that the scenarios share. Sourced after lib.sh.

# postfix: mx.peer.test, in the foreground, with more lines of main.cf on standard input. Delivers to Maildirs.
postfix() {
	root postfix
	network postfix "$POSTFIX"
	local etc=$ROOT_postfix/etc/postfix
	{
		cat <<-END
			compatibility_level = 3.6
			maillog_file = /dev/stdout
			myhostname = mx.peer.test
			mydestination = peer.test, second.test
			inet_interfaces = $POSTFIX
			inet_protocols = ipv4
			mynetworks = $POSTFIX/32
			home_mailbox = Maildir/
			alias_maps =
			biff = no
			smtputf8_enable = yes
			mailbox_size_limit = 0
			message_size_limit = 30000000
			smtp_tls_security_level = may
			smtp_tls_loglevel = 1
			smtp_tls_CAfile = $TLS/ca.pem
			smtpd_tls_security_level = may
			smtpd_tls_cert_file = $TLS/cert.pem
			smtpd_tls_key_file = $TLS/key.pem
			smtpd_tls_received_header = yes
			smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
			minimal_backoff_time = 5s
			maximal_backoff_time = 5s
			queue_run_delay = 5s
			smtpd_error_sleep_time = 0
		END
		cat
	} >"$etc/main.cf"
	# no second chroot below this one
	sed '/^[a-z#]/s/^\([a-z]* *[a-z]* *[-ny] *[-ny] *\)y /\1n /' "$ROOT_postfix/usr/share/postfix/master.cf.dist" >"$etc/master.cf"
	postfix_start
}
postfix_start() {
	start postfix in_postfix /usr/sbin/postfix start-fg
	wait_port "$POSTFIX" 25
	started+=("$(cat "$ROOT_postfix/var/spool/postfix/pid/master.pid")")
}
# postfix_set PARAMETER=VALUE...: and a new start: after a reload, processes with the old values still take a connection or two
postfix_set() {
	in_postfix postconf -e "$@"
	in_postfix postfix stop >>"$W/log/postfix" 2>&1
	postfix_start
}
postfix_inbox() { echo "$ROOT_postfix/home/$1/Maildir"; }

# dovecot: dove.test, in the foreground: LMTP on 24 and $W/dovecot.sock, IMAP on 143, with more configuration on standard input.
# Its table of passwords is a copy of postel's users file, which has the same form.
dovecot() {
	root dovecot
	network dovecot "$DOVECOT"
	{
		cat <<-END
			protocols = lmtp imap
			listen = $DOVECOT
			log_path = /dev/stderr
			ssl = required
			ssl_cert = <$TLS/cert.pem
			ssl_key = <$TLS/key.pem
			mail_location = maildir:~/Maildir
			first_valid_uid = 1000
			recipient_delimiter = +
			auth_username_format = %n
			passdb {
			  driver = passwd-file
			  args = /etc/dovecot/users
			}
			userdb {
			  driver = passwd
			}
			service lmtp {
			  inet_listener lmtp {
			    port = 24
			  }
			  unix_listener $W/dovecot.sock {
			    mode = 0666
			  }
			}
		END
		cat
	} >"$ROOT_dovecot/etc/dovecot/dovecot.conf"
	in_dovecot install -m 600 -o dovecot "$W/postel/users" /etc/dovecot/users
	start dovecot in_dovecot /usr/sbin/dovecot -F
	wait_port "$DOVECOT" 24 143
}
dovecot_inbox() { echo "$ROOT_dovecot/home/$1/Maildir"; }
