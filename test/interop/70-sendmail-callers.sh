#!/bin/bash
# Programs that call /usr/sbin/sendmail: mutt, PHP, git, s-nail, Python. The host has no configuration at all.
HOST=box.test
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/box.sh"

box
INBOX=$(home_of bob)/Maildir
body >"$W/body"
letter alice@box.test bob@box.test "attached" >"$W/letter"

by_mutt() { # by_mutt SUBJECT [FLAG...]
	as_root TERM=dumb mutt -n -F /dev/null -e 'set charset=utf-8 send_charset=utf-8 copy=no from=alice@box.test' "${@:2}" -s "$1" -- bob@box.test <"$W/body"
}
check "mutt, its default command line" by_mutt "mutt one"
check "it arrives" within 10 found "$INBOX" "mutt one"
check "mutt, set sendmail=" by_mutt "mutt two" -e 'set sendmail="/usr/local/bin/sendmail -oem -oi" use_envelope_from=yes use_8bitmime=yes'
check "it arrives as it was sent" arrives "$INBOX" "mutt two"
check "mutt with a Bcc" by_mutt "mutt three" -b carol@box.test -a "$W/letter"
check "the Bcc arrives" within 10 found "$(home_of carol)/Maildir" "mutt three"
check "and is not in the header" not grep -qi '^bcc:' "$LETTER"

php_mail() { # php_mail SUBJECT [FLAG...]
	# shellcheck disable=SC2016 # PHP's variables
	as_root php "${@:2}" -r '
		$ok = mail("Bob <bob@box.test>", $argv[1], file_get_contents($argv[2]), ["From" => "Alice <alice@box.test>", "Cc" => "carol@box.test",
			"MIME-Version" => "1.0", "Content-Type" => "text/plain; charset=utf-8", "Content-Transfer-Encoding" => "8bit"], "-falice@box.test");
		exit($ok ? 0 : 1);' -- "$1" "$W/body"
}
check "PHP's mail(), its default command line" php_mail "php one"
check "it arrives as it was sent" arrives "$INBOX" "php one"
check "the Cc too" arrives "$(home_of carol)/Maildir" "php one"
check "PHP's mail() with sendmail_path" php_mail "php two" -d 'sendmail_path=/usr/local/bin/sendmail -t -i'
check "it arrives as it was sent" arrives "$INBOX" "php two"
check "PHP's mail() to a sendmail that fails says so" not php_mail "php three" -d 'sendmail_path=/usr/local/bin/sendmail -C /nowhere -t -i'

git_mail() {
	# shellcheck disable=SC2016 # the inner shell expands
	as_root sh -ec '
		rm -rf work && git init -q work && cd work
		git config user.name Alice && git config user.email alice@box.test
		for n in 1 2; do
			echo "$n" >file && git add file && git commit -q -m "patch number $n"
		done
		git send-email --quiet --confirm=never --suppress-cc=all --from=alice@box.test --to=bob@box.test "$@" --root HEAD
	' sh "$@"
}
check "git send-email, its default command line" git_mail --subject-prefix="PATCH one"
check "git send-email --sendmail-cmd" git_mail --subject-prefix="PATCH two" --sendmail-cmd="/usr/local/bin/sendmail -t"
git_am() { # git_am PREFIX: bob applies the two patches that came
	local n
	for n in 1 2; do
		within 10 found "$INBOX" "\[$1 $n/2\] patch number $n" || return
		tr -d '\r' <"$LETTER" >"$W/patch.$n"
	done
	# shellcheck disable=SC2016 # the inner shell expands
	as_root sh -ec '
		rm -rf work && git init -q work && cd work
		git config user.name Bob && git config user.email bob@box.test
		git am -q "$@" && [ "$(cat file)" = 2 ] && git log --format=%ae | grep -qx alice@box.test' sh "$W/patch.1" "$W/patch.2"
}
check "git am applies what came" git_am "PATCH one"
check "git am applies what came the other way" git_am "PATCH two"

by_s_nail() { as_root s-nail -:/ -Sttycharset=utf-8 -Ssendcharsets=utf-8 -Sv15-compat -s "$1" -c carol@box.test "${@:2}" bob@box.test <"$W/body"; }
check "s-nail, its default command line" by_s_nail "s-nail one" -r alice@box.test
check "it arrives" within 10 found "$INBOX" "s-nail one"
check "the Cc too" within 10 found "$(home_of carol)/Maildir" "s-nail one"

by_python() {
	as_root python3 -c '
import sys
from subprocess import run
from email.message import EmailMessage
m = EmailMessage()
m["From"], m["To"], m["Bcc"], m["Subject"] = "Alice <alice>", "bob, Bob Himself <bob@box.test>", "carol", "python one"
m.set_content("of Python\n")
run(["/usr/sbin/sendmail", "-t", "-oi"], input=m.as_bytes(), check=True)'
}
check "Python's usual pipe into sendmail -t -oi" by_python
check "it arrives once, bare names completed" within 10 found "$INBOX" "python one"
check "the Bcc arrives" within 10 found "$(home_of carol)/Maildir" "python one"
check "and is not in the header" not grep -qi '^bcc:' "$LETTER"

by_bs() { # as alpine does
	printf '%s\r\n' 'EHLO box.test' 'MAIL FROM:<alice@box.test>' 'RCPT TO:<bob@box.test>' DATA 'From: alice@box.test' 'Subject: by -bs' '' hello . QUIT |
		in_clients sendmail -bs >"$W/dialog"
	cat "$W/dialog"
	grep -q '^250 2.0.0 Ok: queued as ' "$W/dialog"
}
check "sendmail -bs takes a dialog" by_bs
check "it arrives" within 10 found "$INBOX" "by -bs"
