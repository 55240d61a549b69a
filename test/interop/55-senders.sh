#!/bin/bash
# Who may send to whom: swaks as users and as strangers, and Postfix as the next hop that is asked whether a recipient exists.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel <<END
relay_domains = ["peer.test"]
[smtp]
bind = ["$OURS"]
[smtpd]
verify_relay = true
[submission]
senders = "$W/postel/senders"
[limits]
sent_per_hour = 4
[dns]
servers = ["$DNS:53"]
END
echo "sales: alice" >>"$W/postel/aliases"
echo "alice: @shop.test" >"$W/postel/senders"
postfix <<END
smtpd_recipient_restrictions = check_recipient_access inline:{ { later@peer.test = 450 4.2.1 come back later } }
END
root clients
submission
exchanger
final_delivery
runner

# says CODE FROM TO [FLAG...]: the exchanger's answer to that recipient
says() {
	local want=$1 said
	said=$(in_clients swaks --server mail.ours.test --ehlo client.test --from "$2" --to "$3" --quit-after RCPT "${@:4}" || :)
	echo "$said"
	grep "^<[-~*]* *$want" <<<"$said"
}
check "a recipient whom the next hop has is taken" says "250 2.1.5" someone@client.test carol@peer.test
check "one whom it does not have is refused" says "550 5.1.1 Recipient is unknown" someone@client.test stranger@peer.test
check "the log has Postfix's words" logged smtpd 'event=refused.*to=<stranger@peer.test>.*said: 550.*User unknown in local recipient table'
check "one whom it puts off is put off" says "450 4.1.1" someone@client.test later@peer.test
check "the percent hack is refused" says "550 5.7.1" someone@client.test carol%else.test@peer.test
check "elsewhere is refused" says "550 5.7.1" someone@client.test carol@second.test
check "our address in brackets is ours" says "250 2.1.5" '<>' "alice@[$OURS]"
check "another is not" says "550 5.7.1" '<>' "alice@[$POSTFIX]"
check "abuse is there without an alias" says "250 2.1.5" '<>' abuse@lmtp.test
ended() { [ "$(grep -c 'disconnect from.*mail=1 rcpt=\(1\|0/1\) rset=1 quit=1 commands=' "$W/log/postfix")" -ge 2 ]; }
check "Postfix saw sessions that ended as they should" within 5 ended
in_postfix postfix stop >>"$W/log/postfix" 2>&1
check "the next hop is down: who is known is taken" says "250 2.1.5" someone@client.test carol@peer.test
check "who is known not to be there is refused" says "550 5.1.1" someone@client.test stranger@peer.test
check "who is not known is put off" says "450 4.1.1" someone@client.test bob@peer.test
postfix_start
letter someone@client.test carol@peer.test "through the gateway" >"$W/letter"
through() { in_clients swaks --server mail.ours.test --ehlo client.test --from someone@client.test --to carol@peer.test --data "@$W/letter"; }
check "mail for who is known goes through" through
check "and arrives" arrives "$(postfix_inbox carol)" "through the gateway"

by_alice() { says "$1" "$2" "$3" --port 587 -tls --auth PLAIN --auth-user alice --auth-password "$PASSWORD" "${@:4}"; }
check "alice sends as alice" by_alice "250 2.1.5" alice@ours.test bob@ours.test
check "and with a detail" by_alice "250 2.1.5" alice+list@lmtp.test bob@ours.test
check "and as her alias" by_alice "250 2.1.5" sales@ours.test bob@ours.test
check "and as the table says" by_alice "250 2.1.5" anyone@shop.test bob@ours.test
check "and with the null sender" by_alice "250 2.1.5" '<>' bob@ours.test
check "but not as bob" by_alice "553 5.7.1" bob@ours.test bob@ours.test
letter alice@ours.test bob@ours.test "of four" >"$W/letter"
four() { in_clients swaks --server mail.ours.test --ehlo client.test --from alice@ours.test --to bob@ours.test,carol@ours.test,alice@ours.test,abuse@ours.test --data "@$W/letter" \
	--port 587 -tls --auth PLAIN --auth-user alice --auth-password "$PASSWORD"; }
check "four recipients in an hour" four
check "abuse reaches postmaster's reader; nothing bounces" within 10 found_all "$(inbox carol)" "of four" 2
check "a fifth has to wait" by_alice "450 4.7.1" alice@ours.test bob@ours.test
check "nothing is left in our queue" within 10 empty_queue
