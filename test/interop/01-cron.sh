#!/bin/bash
# Debian's cron mails a job's output through our sendmail. Waits for the next full minute, so it starts first.
HOST=box.test
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/box.sh"

box
sed -i '/pam_loginuid/d' "$ROOT_clients/etc/pam.d/cron" # cannot be set twice, and the one who runs this has it
printf '%s\n' MAILTO=alice '* * * * * root echo a line; echo .; echo the last line' >"$ROOT_clients/etc/cron.d/job"
start cron in_clients /usr/sbin/cron -f -L 15

# The exact command line of Debian's cron(8), in the meantime.
by_hand() {
	printf 'From: root (Cron Daemon)\nTo: alice\nSubject: by hand\nContent-Type: text/plain; charset=UTF-8\n\nby hand\n' |
		as_root /usr/sbin/sendmail -FCronDaemon -i -B8BITMIME -oem alice
}
check "cron's command line, by hand" by_hand
check "it arrives" within 10 found "$(home_of alice)/Maildir" "by hand"

check "cron's mail arrives" within 75 found "$(home_of alice)/Maildir" "Cron <root@box> echo a line"
whole() { sed '1,/^\r*$/d' "$LETTER" | tr -d '\r' | diff - <(printf '%s\n' 'a line' . 'the last line'); }
check "it is whole" whole
check "its sender is completed" grep -q '^From:.*root@box.test' "$LETTER"
