#!/bin/bash
# Real front ends: HAProxy with both versions of the PROXY protocol, its health check and TLS that ends there, and nginx with XCLIENT, a login too, and with the PROXY protocol.
. "${BASH_SOURCE[0]%/*}/lib.sh"

PROXY=192.0.2.70 FRONT=192.0.2.71 OUTSIDE=198.51.100.7 # to which smtpd listens is from where the front end comes
for addr in $PROXY $FRONT $OUTSIDE; do ip addr add "$addr/32" dev lo; done
postel <<END
[smtpd]
proxy_networks = ["$PROXY/32"]
xclient_networks = ["$FRONT/32"]
[limits]
rate_connections = 20
END
sed -i 's|^relay_networks.*|relay_networks = ["192.0.2.0/24"]|' "$POSTEL_CONFIG"
root clients
start smtpd smtpd --listen $OURS:25 --listen $PROXY:25 --listen $FRONT:25
wait_port $OURS 25

cat "$TLS/cert.pem" "$TLS/key.pem" >"$W/both.pem"
cat >"$W/haproxy.cfg" <<END
global
	log stdout format raw local0
defaults
	mode tcp
	log global
	timeout connect 5s
	timeout client 30s
	timeout server 30s
listen v1
	bind $OUTSIDE:2501
	option smtpchk EHLO check.test
	server postel $PROXY:25 send-proxy check check-send-proxy inter 100
listen v2
	bind $OUTSIDE:2502
	option smtpchk EHLO check.test
	server postel $PROXY:25 send-proxy-v2 proxy-v2-options crc32c,unique-id check check-send-proxy inter 100
listen tls
	bind $OUTSIDE:2503 ssl crt $W/both.pem
	server postel $PROXY:25 send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,cert-key,cert-sig,ssl-cipher,authority,crc32c
END
cat >"$W/nginx.conf" <<END
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
error_log stderr info;
pid $W/nginx.pid;
daemon off;
events {}
http {
	access_log off;
	map \$http_auth_method:\$http_auth_pass \$verdict {
		default "Invalid login";
		none: OK;
		"plain:open%20sesame" OK;
	}
	server {
		listen 127.0.0.1:8080;
		location / {
			add_header Auth-Status \$verdict;
			add_header Auth-Server \$arg_to;
			add_header Auth-Port 25;
			return 204;
		}
	}
}
mail {
	server_name nginx.test;
	proxy_pass_error_message on;
	server {
		listen $OUTSIDE:2511;
		protocol smtp;
		smtp_auth none;
		xclient on;
		auth_http 127.0.0.1:8080/?to=$FRONT;
	}
	server {
		listen $OUTSIDE:2512;
		protocol smtp;
		smtp_auth plain;
		xclient on;
		auth_http 127.0.0.1:8080/?to=$FRONT;
	}
	server {
		listen $OUTSIDE:2513;
		protocol smtp;
		smtp_auth none;
		xclient off;
		proxy_protocol on;
		auth_http 127.0.0.1:8080/?to=$PROXY;
	}
}
END
start haproxy in_clients haproxy -db -f "$W/haproxy.cfg"
start nginx in_clients nginx -c "$W/nginx.conf"
wait_port $OUTSIDE 2501 2502 2503 2511 2512 2513

# by PORT SUBJECT FROM TO SWAKS-FLAG...: an outside client, by way of a front end; what both sides say is in dialog
by() {
	letter "$3" "$4" "$2" >"$W/letter"
	in_clients swaks --server $OUTSIDE --port "$1" --local-interface $OUTSIDE --from "$3" --to "$4" --ehlo client.test --timeout 15 --data "@$W/letter" "${@:5}" >"$W/dialog" 2>&1
}
said() { grep -e "$1" "$W/dialog"; }
# queued SUBJECT PROTOCOL HELO: its trace names the client
queued() {
	local file
	file=$(grep -rl "^Subject: $1" "$W/postel/spool/queue") || return 1
	grep -A2 '^Received:' "$file" | tr -d '\r' >"$W/trace"
	cat "$W/trace"
	grep -q "^Received: from $3 (\[$OUTSIDE\])" "$W/trace" && grep -qx ".*by mail.ours.test with $2" "$W/trace"
}
# through NAME PORT SWAKS-FLAG...: mail for us comes by, mail for others does not; HELO is the name that the front end gives, where that is its own
through() {
	check "$1" by "$2" "$1" eve@far.test alice@ours.test "${@:3}"
	check "$1: the trace names the client" queued "$1" ESMTP "${HELO:-client.test}"
	check "$1: it may not relay, though the front end might" fails 24 by "$2" "$1" eve@far.test who@else.test "${@:3}"
	check "$1: and hears why" said '550 5.7.1'
}

through "HAProxy, version 1" 2501
through "HAProxy, version 2" 2502
through "HAProxy, TLS ends there" 2503 -tlsc
through "nginx, XCLIENT" 2511
HELO=nginx.test through "nginx, PROXY" 2513 # EHLO is its own then
login=(--auth PLAIN --auth-user alice --auth-password)
check "nginx, a login" by 2512 "nginx, a login" alice@ours.test who@else.test "${login[@]}" "$PASSWORD"
check "nginx, a login: the trace says so" queued "nginx, a login" ESMTPA client.test
check "nginx, a wrong password" fails 28 by 2512 wrong alice@ours.test who@else.test "${login[@]}" wrong

# The health checks are more than a client may make connections within a minute.
checks() { [ "$(logged_times smtpd "event=disconnect client=$PROXY\$")" -gt 40 ]; }
check "HAProxy's health checks come to their end" within 10 checks
check "and it finds its servers well" not logged haproxy DOWN
check "they leave no warnings" not logged smtpd "level=[we].*client=$PROXY"
