#!/bin/bash
# What stands in front of the exchanger: who speaks first, DNS lists, names and own names, and greylisting, with swaks as the stranger and Postfix as a mail server that
# waits and comes again.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

LISTED=192.0.2.66 NAMELESS=192.0.2.67
for addr in $LISTED $NAMELESS; do ip addr add "$addr/32" dev lo; done
postel <<END
[dns]
servers = ["$DNS:53"]
[screen]
greet_delay = "2s"
dns_lists   = ["bl.test[127.0.0.2..11]=3", "dead.test=3", "good.test=-4"]
no_name     = 3
own_name    = true
greylist    = "2s"
END
root clients
exchanger
final_delivery
runner
postfix <<END
END

# stranger ADDRESS SWAKS-FLAG...
stranger() {
	in_clients swaks --server $OURS --local-interface "$1" --from eve@far.test --to alice@ours.test --ehlo far.test --body hello --timeout 15 "${@:2}" >"$W/dialog" 2>&1
}
said() { grep -e "$1" "$W/dialog"; } # what the last stranger and the server said

# first_words ADDRESS TEXT: the answer to one who does not wait
first_words() {
	in_clients socat -t 5 - "TCP:$OURS:25,bind=$1" <<<"$2" >"$W/dialog"
}
check "who speaks first is sent away" first_words $LISTED "EHLO far.test"
check "with 521, behind the first line of the greeting" said '^521 5.5.1'
check "and hears nothing else" not said '^250'
check "the log has what it said" logged smtpd 'event=refused client=192.0.2.66 code=521 .*EHLO far.test'
hello() { timeout 30 bash -c "exec 3<>/dev/tcp/$OURS/25; sed -u '/^220 /q' <&3"; }
check "who leaves first is no more" timeout 1 bash -c "exec 3<>/dev/tcp/$OURS/25"
check "and that is logged" within 5 logged smtpd 'event=disconnect client=192.0.2.25 text="left before the greeting"'
check "who waits is greeted" hello

check "a listed client is refused at RCPT" fails 24 stranger $LISTED
check "with the words of the list" said '550 5.7.1 Your address 192.0.2.66 is listed by bl.test: ask https://bl.test/'
check "the log tells why" logged smtpd 'event=refused client=192.0.2.66 from=<eve@far.test> to=<alice@ours.test> code=550 .*cause="score 3: bl.test=3"'
check "the log tells the client's name" logged smtpd 'event=screened client=192.0.2.66 name=bad.far.test score=3 text="bl.test=3"'
check "a listed client may write to postmaster" stranger $LISTED --to postmaster@ours.test --header "Subject: let me in"
check "and postmaster reads it" within 10 found "$(inbox carol)" "let me in"
check "the Received field has the name" grep -q '^Received: from far.test (bad.far.test \[192.0.2.66\])' "${LETTER:-/dev/null}"
check "a client without a name is refused" fails 24 stranger $NAMELESS
check "with the code for that" said '550 5.7.25 Your address 192.0.2.67 has no name'
check "a list that has every address is not used, and told of" logged smtpd 'event=problem .*dead.test has every address'
check "who has our name is refused" fails 24 stranger $DNS --ehlo mail.ours.test
check "and told so" said '550 5.7.1 You call yourself mail.ours.test'
check "who has our address is refused" fails 24 stranger $DNS --ehlo "[$OURS]"
check "a stranger that is welcome waits for nothing" stranger $DNS --header "Subject: welcome"
check "and has written" within 10 found "$(inbox alice)" welcome

# send FROM TO SUBJECT
send() { letter "$1" "$2" "$3" | in_postfix /usr/sbin/sendmail -i -f "$1" "$2"; }
send carol@peer.test bob@ours.test "grey"
check "Postfix waits for the greeting and has to come again" within 15 logged postfix 'to=<bob@ours.test>.*status=deferred (host mail.ours.test.*451 4.7.1 Greylisted, try again in [12] seconds'
check "and comes again" within 30 arrives "$(inbox bob)" grey
send carol@peer.test bob@ours.test "grey no more"
check "the next message is not put off" arrives "$(inbox bob)" "grey no more"
check "nothing that was refused is in the mailbox" not found "$(inbox alice)" "test .*"
check "nothing is left in our queue" within 10 empty_queue

# other processes on the same spool know what this one has learned; --no-screen knows nothing
start second smtpd --listen $OURS:2525
start open smtpd --no-screen --listen $OURS:2526
wait_port $OURS 2525 2526
stranger_at() { stranger "$2" --port "$1" "${@:3}"; }
check "another process: refused as well" fails 24 stranger_at 2525 $LISTED
check "it does not hold up who has waited for the first" not grep -q '^220-' "$W/dialog"
check "--no-screen: taken from anybody" stranger_at 2526 $LISTED --header "Subject: no screen"
check "--no-screen: it arrives" within 10 found "$(inbox alice)" "no screen"
