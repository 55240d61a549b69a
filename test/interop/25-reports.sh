#!/bin/bash
# Reports (RFC 3461, 3464, 3834, 6522, 6533) between our runner and Postfix, read by Python's email package: what Postfix refuses, puts off and
# delivers; what its users ask of us; what asks have come through; and what cannot be returned.
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "$HERE/peers.sh"

postel <<END
[dns]
servers = ["$DNS:53"]
[smtp]
bind = ["$OURS"]
[queue]
retry = ["1s", "2s"]
warn  = "2s"
END
root clients
exchanger
submission
final_delivery
runner
postfix <<END
smtpd_recipient_restrictions = check_recipient_access inline:{ { later@peer.test = 450 4.2.1 come back later } { long@peer.test = 550 5.7.1 $(printf 'word%.0s ' {1..100}) } }
virtual_alias_maps = inline:{ grüße@peer.test=carol@peer.test }
END

# describe FILE: the report in it, a line for each thing in it, and what is wrong with its form.
cat >"$W/describe.py" <<'END'
import email, email.policy, sys
m = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)
print("type:", m.get_content_type(), m.get_param("report-type"))
for name in "Return-Path", "From", "To", "Subject", "Auto-Submitted", "X-Postel-Report":
    print("head:", name + ":", m[name])
print("head: complete" if m["Date"].datetime and m["Message-ID"] and m["MIME-Version"] == "1.0" else "DEFECT")
for part in m.get_payload():
    kind = part.get_content_type()
    print("part:", kind, part.get("Content-Transfer-Encoding", "7bit"))
    if kind == "message/delivery-status":
        for n, fields in enumerate(part.get_payload()):
            for name, value in fields.items():
                print("recipient:" if n else "message:", name + ":", " ".join(value.split()))
    elif kind in ("message/rfc822", "message/global"):
        inner = part.get_payload(0)
        print("returned:", kind, inner["Subject"])
        if not inner.is_multipart():
            print("returned body:", inner.get_content().splitlines()[0])
    elif kind == "message/global-delivery-status": # unknown to this package
        print(part.as_bytes().decode("utf-8"))
    else:
        print(part.get_payload(decode=True).decode("utf-8"))
for part in m.walk():
    for defect in part.defects:
        print("DEFECT", part.get_content_type(), defect)
END
REPORT=''
describe() { in_clients python3 "$W/describe.py" <"$1" >"$W/described" && cat "$W/described"; }
# reported MAILDIR PATTERN: the one report there in which a line matches comes in time, and its form is without a fault; it is in $W/described.
reported() {
	within "${SLOW:-10}" found_report "$1" "$2" || {
		echo "no report (or two) in $1 with $2: $REPORT"
		return 1
	}
	describe "$REPORT" && ! grep DEFECT "$W/described"
}
found_report() {
	REPORT=$(grep -ls '^Content-Type: multipart/report' "$1"/new/* | xargs -r grep -ls -e "$2")
	[ -f "$REPORT" ]
}
says() { grep -q -e "$1" "$W/described" || ! cat "$W/described"; }
no_report() { ! grep -qs -e "$2" "$1"/new/*; }

# send FROM TO... SUBJECT: with the flags in $DSN
DSN=()
send() {
	local from=$1 subject=${*: -1}
	letter "$from" "$2" "$subject" | sendmail -i -f "$from" "${DSN[@]}" "${@:2:$#-2}"
}

send alice@ours.test stranger@peer.test carol@peer.test "refused"
check "refused by Postfix: a report, well formed" reported "$(inbox alice)" 'Final-Recipient: .*stranger@peer.test'
check "it is a multipart/report" says '^type: multipart/report delivery-status'
check "it comes from nobody" says '^head: Return-Path: <>'
check "it says that it is automatic" says '^head: Auto-Submitted: auto-replied'
check "it goes to the sender" says '^head: To: <\{0,1\}alice@ours.test'
check "it names this host" says '^message: Reporting-MTA: dns; mail.ours.test'
check "it names Postfix" says '^recipient: Remote-MTA: dns; mx.peer.test'
check "it has Postfix's status" says '^recipient: Status: 5.1.1'
check "it has Postfix's words for programs" says '^recipient: Diagnostic-Code: smtp; 550 5.1.1 .*User unknown in local recipient table'
check "it has Postfix's words for people" says '^    mx.peer.test.* said: 550 5.1.1'
check "the message comes back, with its 8 bits" says '^returned: message/rfc822 refused'
check "the other recipient is not in it" not says carol@peer.test

send alice@ours.test long@peer.test "refused at length"
check "a long reply: well formed" reported "$(inbox alice)" 'Final-Recipient: .*long@peer.test'
check "it is whole" says '^recipient: Diagnostic-Code: smtp; 550 5.7.1 .*\(word \)\{98\}word'
check "no line of it is long" not grep -q '.\{100\}' <(sed '/^Content-Type: message.rfc822/,$d' "$REPORT")

DSN=(-R hdrs -V my-own+2Bid)
send alice@ours.test headers@peer.test "headers only"
check "RET=HDRS: the header alone comes back" reported "$(inbox alice)" 'Final-Recipient: .*headers@peer.test'
check "RET=HDRS: of it the subject" says '^Subject: headers only'
check "RET=HDRS: as that type" says '^part: text/rfc822-headers'
check "ENVID comes back, decoded" says '^message: Original-Envelope-Id: my-own+id$'
DSN=(-N never)
send alice@ours.test quiet@peer.test "never"
check "NOTIFY=NEVER: it fails" within 10 logged qmgr 'event=bounced.*quiet@peer.test'
DSN=(-N success)
send alice@ours.test silent@peer.test "success only"
check "NOTIFY=SUCCESS: it fails" within 10 logged qmgr 'event=bounced.*silent@peer.test'

send alice@ours.test alice@peer.test "success through Postfix"
check "NOTIFY=SUCCESS is Postfix's to fulfil" within 10 logged postfix 'to=<alice@peer.test>.*status=sent'
check "its report comes through us, and parses" reported "$(inbox alice)" 'Final-Recipient: .*alice@peer.test'
check "it is Postfix's" says '^message: Reporting-MTA: dns; mx.peer.test'
check "it says delivered" says '^recipient: Action: delivered'
DSN=(-N "success,failure" -V second)
postfix_set smtpd_discard_ehlo_keywords=dsn
send alice@ours.test bob@peer.test "success beyond Postfix"
check "NOTIFY=SUCCESS, a host without DSN: we say so" reported "$(inbox alice)" 'Final-Recipient: .*bob@peer.test'
check "it says relayed" says '^recipient: Action: relayed'
check "it is ours" says '^message: Reporting-MTA: dns; mail.ours.test'
check "it has the ENVID" says '^message: Original-Envelope-Id: second'
check "the message is not in it, but its header" says '^part: text/rfc822-headers'
postfix_set smtpd_discard_ehlo_keywords=
DSN=()

send alice@ours.test later@peer.test "put off"
check "a delay is told" reported "$(inbox alice)" 'Final-Recipient: .*later@peer.test'
check "it says delayed" says '^recipient: Action: delayed'
check "it says until when" says '^recipient: Will-Retry-Until: '
check "it has Postfix's status" says '^recipient: Status: 4.2.1'

# Their users ask us: by Postfix's own sendmail, whose MTA passes the wishes on.
ask() { letter carol@peer.test "$1" "$2" | in_postfix /usr/sbin/sendmail -i -f carol@peer.test -N success,failure -V "$3" "$1"; }
ask alice@ours.test "asked" ours-1
check "Postfix asks for success: we tell" reported "$(postfix_inbox carol)" 'Reporting-MTA: dns; mail.ours.test'
check "we say delivered" says '^recipient: Action: delivered'
check "with the status of a success" says '^recipient: Status: 2.0.0'
check "with its ENVID" says '^message: Original-Envelope-Id: ours-1'
check "with the ORCPT that Postfix adds" says '^recipient: Original-Recipient: rfc822; *alice@ours.test'

# Python asks with parameters of its own.
cat >"$W/ask.py" <<'END'
import smtplib, ssl, sys
s = smtplib.SMTP("mail.ours.test", 587, "client.test")
s.starttls(context=ssl.create_default_context(cafile=sys.argv[1]))
s.login("alice", sys.argv[2])
s.sendmail("alice@ours.test", ["another@peer.test"], "Subject: by parameters\r\n\r\nhello\r\n".encode(),
    ["RET=FULL", "ENVID=a+20b"], ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;first+2Bbox@peer.test"])
END
check "Python asks by parameters" in_clients python3 "$W/ask.py" "$TLS/ca.pem" "$PASSWORD"
check "the report comes" reported "$(inbox alice)" 'Final-Recipient: .*another@peer.test'
check "it has what ORCPT said" says '^recipient: Original-Recipient: rfc822; first+box@peer.test'
check "it has what ENVID said" says '^message: Original-Envelope-Id: a b'
check "it has the message" says '^returned body: hello'

large bob@ours.test ghost@peer.test "too large to return" >"$W/large"
check "20 MB are taken" sendmail -i -f bob@ours.test -R full ghost@peer.test <"$W/large"
check "20 MB refused: the header comes back, whatever was asked" reported "$(inbox bob)" 'Final-Recipient: .*ghost@peer.test'
check "as that type" says '^part: text/rfc822-headers'
check "by us" says '^message: Reporting-MTA: dns; mail.ours.test'

# Addresses that are not ASCII.
send bob@ours.test 'jörg@peer.test' "umlaut"
check "a recipient who is not ASCII: an ASCII report" reported "$(inbox bob)" 'Final-Recipient: utf-8; j.x{F6}rg@peer.test'
check "people read the address as it is" says '^<jörg@peer.test>'
send 'grüße@peer.test' unbekannt@peer.test "Umlaut im Absender"
check "a sender who is not ASCII: RFC 6533, and Postfix takes it" reported "$(postfix_inbox carol)" 'Final-Recipient: rfc822; unbekannt@peer.test'
check "with that type" says '^part: message/global-delivery-status 8bit'
check "to that sender" says '^head: To: <\{0,1\}grüße@peer.test'

# What cannot be returned goes to postmaster, who is carol.
send forged@peer.test unknown@peer.test "from a stranger to a stranger"
check "neither delivered nor returned: postmaster has it" reported "$(inbox carol)" 'Final-Recipient: .*forged@peer.test'
check "it is marked" says '^head: X-Postel-Report: double-bounce'
check "the report that could not be returned is in it" says '^returned: message/rfc822 Undelivered mail returned to sender'
sed -i 's/^postmaster:.*/postmaster: ghost@peer.test/' "$W/postel/aliases"
sleep 1.1 # a change is seen after a second
send forged@peer.test unknown@peer.test "and no postmaster"
check "and where postmaster's mail is refused too, it ends" within 15 logged qmgr 'event=dropped'

check "NOTIFY=NEVER: no report" no_report "$(inbox alice)" quiet@peer.test
check "NOTIFY=SUCCESS: no report of the failure" no_report "$(inbox alice)" 'Final-Recipient: .*silent@peer.test'
postfix_set smtpd_recipient_restrictions=
check "the delay was told once" found_report "$(inbox alice)" 'Final-Recipient: .*later@peer.test'
only_later() { [ "$(printf '%s\n' "$W"/postel/spool/queue/* | wc -l)" -le 1 ]; }
check "nothing else is left in our queue" within 10 only_later
