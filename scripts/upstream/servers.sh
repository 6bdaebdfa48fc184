# shellcheck shell=bash disable=SC2034,SC2154 # shared with upstream-test.sh
# SPDX-License-Identifier: Apache-2.0
#
# The servers of scripts/upstream-test.sh and their configurations. A server is a function
#
#   server_NAME DIR PORT   starts it on 127.0.0.1:PORT with its files in DIR, adds its processes to the array `pids`, and
#                          sets `direct` if it is to be compared with another port than nsd's
#
# upstream-test.sh sets: work, root (a Debian testing system, where the work directory is /work), NSD (port of the
# authoritative server of compare.test).

# Packages of Debian testing, for servers that Debian 12 lacks.
readonly ROOT_PACKAGES="dnsdist unbound bind9 knot nginx haproxy"

# Servers written in Go: name, module, version, package.
readonly GO_SERVERS=(
	"coredns github.com/coredns/coredns v1.15.0 ."
	"dnsproxy github.com/AdguardTeam/dnsproxy v0.81.2 ."
)

# Name (a function server_NAME, with _ for -), URL of the upstream, port, and what reloads it.
readonly SERVERS=(
	"dot-dnsdist17 127.0.0.1:PORT#dns.example 8001"
	"doh-dnsdist17 https://127.0.0.1:PORT/dns-query#dns.example 8002"
	"doh-dnsdist https://127.0.0.1:PORT/dns-query#dns.example 8003"
	"doh-nginx https://127.0.0.1:PORT/dns-query#dns.example 8004 reload_nginx"
	"doh-haproxy https://127.0.0.1:PORT/dns-query#dns.example 8005 reload_haproxy"
	"doh-coredns https://127.0.0.1:PORT/dns-query#dns.example 8006"
	"doh-dnsproxy https://127.0.0.1:PORT/dns-query{?dns}#dns.example 8007"
	"doh-unbound https://127.0.0.1:PORT/dns-query#dns.example 8008"
	"doh-bind https://127.0.0.1:PORT/dns-query{?dns}#dns.example 8009"
	"dot-socks 127.0.0.1:PORT#dns.example 8012"
	"doh-http-proxy https://127.0.0.1:PORT/dns-query#dns.example 8013"
	"doh3-nginx h3://127.0.0.1:PORT/dns-query#dns.example 8010"
	"doh3-haproxy h3://127.0.0.1:PORT/dns-query{?dns}#dns.example 8015 reload_haproxy"
	"doh3-dnsproxy h3://127.0.0.1:PORT/dns-query#dns.example 8011"
	"doq-dnsproxy quic://127.0.0.1:PORT#dns.example 8014"
)

# CoreDNS and knotd over QUIC are in scripts/upstream/doq.sh: the former truncates replies as over UDP, and the latter does
# not pass.

# For a server that is asked through a proxy, the function sets options=(--proxy URL).

# start DIR COMMAND…: runs COMMAND in the background, with its output in DIR/log.
start() {
	local dir=$1
	shift
	"$@" >>"$dir/log" 2>&1 </dev/null &
	pids+=($!)
}

# in_root COMMAND…: runs a program of Debian testing, in the foreground of the caller.
in_root() { exec chroot "$root" "$@"; }

# up DIR PORT: waits until the server listens.
up() { wait_for 20 "the server (see $1/log)" listening "$2"; }

# ---- dnsdist ----------------------------------------------------------------------------------------------

# dnsdist_conf DIR LINE…
dnsdist_conf() {
	local dir=$1
	shift
	{
		printf '%s\n' 'setLocal("127.0.0.1:0")' 'setACL({"127.0.0.0/8"})' 'setSecurityPollSuffix("")' \
			"newServer({address=\"127.0.0.1:$NSD\", tcpOnly=true, sockets=4, healthCheckMode=\"up\"})" "$@"
	} >"$dir/conf"
}

server_dot_dnsdist17() {
	dnsdist_conf "$1" "addTLSLocal(\"127.0.0.1:$2\", \"$work/cert.pem\", \"$work/key.pem\")" "setTCPRecvTimeout(2)" "setMaxTCPQueriesPerConnection(500)"
	sed -i "s/, healthCheckMode=\"up\"//" "$1/conf"
	start "$1" dnsdist --supervised -C "$1/conf"
	up "$1" "$2"
}

server_doh_dnsdist17() {
	dnsdist_conf "$1" "addDOHLocal(\"127.0.0.1:$2\", \"$work/cert.pem\", \"$work/key.pem\", \"/dns-query\", {idleTimeout=2})"
	sed -i "s/, healthCheckMode=\"up\"//" "$1/conf"
	start "$1" dnsdist --supervised -C "$1/conf"
	up "$1" "$2"
}

# plain_doh DIR: a DNS-over-HTTPS server without TLS on port 8053, behind nginx and haproxy.
plain_doh() {
	dnsdist_conf "$1" 'addDOHLocal("127.0.0.1:8053", nil, nil, "/dns-query")'
	sed -i "s/, healthCheckMode=\"up\"//" "$1/conf"
	start "$1" dnsdist --supervised -C "$1/conf"
	up "$1" 8053
}

server_doh_dnsdist() {
	dnsdist_conf "$1" "addDOHLocal(\"127.0.0.1:$2\", \"/work/cert.pem\", \"/work/key.pem\", \"/dns-query\", {idleTimeout=2})"
	start "$1" in_root dnsdist --supervised -C "/work/${1##*/}/conf"
	up "$1" "$2"
}

# ---- HTTP servers in front of one without TLS -------------------------------------------------------------

# A connection gets GOAWAY after 300 requests, after two idle seconds, and on a reload.
server_doh_nginx() {
	plain_doh "$1"
	cat >"$1/nginx.conf" <<-END
		daemon off;
		worker_processes 2;
		pid $1/nginx.pid;
		error_log $1/log warn;
		events { worker_connections 4096; }
		http {
		    access_log off;
		    client_body_temp_path $1/tmp-body;
		    proxy_temp_path $1/tmp-proxy;
		    fastcgi_temp_path $1/tmp-fastcgi;
		    uwsgi_temp_path $1/tmp-uwsgi;
		    scgi_temp_path $1/tmp-scgi;
		    upstream plain { server 127.0.0.1:8053; keepalive 64; }
		    server {
		        listen 127.0.0.1:$2 ssl http2;
		        ssl_protocols TLSv1.2 TLSv1.3;
		        ssl_certificate $work/cert.pem;
		        ssl_certificate_key $work/key.pem;
		        keepalive_timeout 2s;
		        keepalive_requests 300;
		        location /dns-query {
		            proxy_pass http://plain;
		            proxy_http_version 1.1;
		            proxy_set_header Connection "";
		        }
		    }
		}
	END
	start "$1" nginx -e "$1/log" -c "$1/nginx.conf"
	up "$1" "$2"
}
reload_nginx() { kill -HUP "$(cat "$1/nginx.pid")"; }

server_doh_haproxy() {
	plain_doh "$1"
	cat >"$1/haproxy.cfg" <<-END
		global
		    maxconn 4000
		defaults
		    mode http
		    timeout connect 5s
		    timeout server 10s
		    timeout client 2s
		    timeout http-keep-alive 2s
		frontend doh
		    bind 127.0.0.1:$2 ssl crt $work/both.pem alpn h2
		    default_backend plain
		backend plain
		    http-reuse always
		    server dnsdist 127.0.0.1:8053
	END
	start "$1" haproxy -W -f "$1/haproxy.cfg"
	echo $! >"$1/haproxy.pid"
	up "$1" "$2"
}
reload_haproxy() { kill -USR2 "$(cat "$1/haproxy.pid")"; }

# HTTP/3 is in Debian testing only; dnsdist's packages lack it. nginx over QUIC is not reloaded: the kernel then delivers
# packets of new connections to its old process too, which ignores them (github.com/nginx/nginx/issues/425), so that some new
# connections get no reply for seconds, and about one query of a hundred fails.
server_doh3_nginx() {
	plain_doh "$1"
	cat >"$1/nginx.conf" <<-END
		daemon off;
		worker_processes 1;
		user root;
		pid /work/${1##*/}/nginx.pid;
		error_log /work/${1##*/}/log warn;
		events { worker_connections 4096; }
		http {
		    access_log off;
		    client_body_temp_path /work/${1##*/}/tmp-body;
		    proxy_temp_path /work/${1##*/}/tmp-proxy;
		    fastcgi_temp_path /work/${1##*/}/tmp-fastcgi;
		    uwsgi_temp_path /work/${1##*/}/tmp-uwsgi;
		    scgi_temp_path /work/${1##*/}/tmp-scgi;
		    upstream plain { server 127.0.0.1:8053; keepalive 64; }
		    server {
		        listen 127.0.0.1:$2 quic;
		        ssl_certificate /work/cert.pem;
		        ssl_certificate_key /work/key.pem;
		        keepalive_timeout 2s;
		        keepalive_requests 300;
		        location /dns-query {
		            proxy_pass http://plain;
		            proxy_http_version 1.1;
		            proxy_set_header Connection "";
		        }
		    }
		}
	END
	start "$1" in_root nginx -e "/work/${1##*/}/log" -c "/work/${1##*/}/nginx.conf"
	up "$1" "$2"
}

server_doh3_haproxy() {
	plain_doh "$1"
	cat >"$1/haproxy.cfg" <<-END
		global
		    maxconn 4000
		defaults
		    mode http
		    timeout connect 5s
		    timeout server 10s
		    timeout client 2s
		    timeout http-keep-alive 2s
		frontend doh
		    bind quic4@127.0.0.1:$2 ssl crt /work/both.pem alpn h3
		    default_backend plain
		backend plain
		    http-reuse always
		    server dnsdist 127.0.0.1:8053
	END
	start "$1" in_root haproxy -W -f "/work/${1##*/}/haproxy.cfg"
	echo $! >"$1/haproxy.pid"
	up "$1" "$2"
}

# ---- CoreDNS and dnsproxy ---------------------------------------------------------------------------------

server_doh_coredns() {
	cat >"$1/Corefile" <<-END
		https://.:$2 {
		    bind 127.0.0.1
		    tls $work/cert.pem $work/key.pem
		    forward . 127.0.0.1:$NSD { prefer_udp }
		}
	END
	sed -i 's/{ prefer_udp }/{\n        force_tcp\n    }/' "$1/Corefile"
	start "$1" bin/peers/coredns -conf "$1/Corefile"
	up "$1" "$2"
}

server_doh_dnsproxy() {
	start "$1" bin/peers/dnsproxy -l 127.0.0.1 -p 0 --https-port="$2" --tls-crt="$work/cert.pem" --tls-key="$work/key.pem" -u "tcp://127.0.0.1:$NSD"
	up "$1" "$2"
}

server_doh3_dnsproxy() {
	start "$1" bin/peers/dnsproxy -l 127.0.0.1 -p 0 --https-port="$2" --http3 --tls-crt="$work/cert.pem" --tls-key="$work/key.pem" -u "tcp://127.0.0.1:$NSD"
	up "$1" "$2"
}

server_doq_dnsproxy() {
	start "$1" bin/peers/dnsproxy -l 127.0.0.1 -p 0 --quic-port="$2" --tls-crt="$work/cert.pem" --tls-key="$work/key.pem" -u "tcp://127.0.0.1:$NSD"
	up "$1" "$2"
}

# ---- through a proxy --------------------------------------------------------------------------------------

server_dot_socks() {
	server_dot_dnsdist17 "$@"
	start "$1" microsocks -i 127.0.0.1 -p 1080 -u user -P secret
	options=(--proxy socks5://user:secret@127.0.0.1:1080)
	up "$1" 1080
}

server_doh_http_proxy() {
	server_doh_dnsdist17 "$@"
	printf 'Port 8888\nListen 127.0.0.1\nBasicAuth user secret\nTimeout 60\nMaxClients 100\n' >"$1/tinyproxy.conf"
	start "$1" tinyproxy -d -c "$1/tinyproxy.conf"
	options=(--proxy http://user:secret@127.0.0.1:8888)
	up "$1" 8888
}

# ---- unbound and BIND -------------------------------------------------------------------------------------

server_doh_unbound() {
	cat >"$1/conf" <<-END
		server:
		    interface: 127.0.0.1@5353
		    interface: 127.0.0.1@$2
		    https-port: $2
		    tls-service-key: /work/key.pem
		    tls-service-pem: /work/cert.pem
		    access-control: 127.0.0.0/8 allow
		    do-not-query-localhost: no
		    do-daemonize: no
		    username: ""
		    chroot: ""
		    pidfile: ""
		    directory: /work
		    use-syslog: no
		    module-config: iterator
		    local-zone: test. nodefault
		    tcp-idle-timeout: 2000
		    incoming-num-tcp: 100
		remote-control:
		    control-enable: no
		stub-zone:
		    name: compare.test
		    stub-addr: 127.0.0.1@$NSD
	END
	direct=5353
	start "$1" in_root unbound -d -c "/work/${1##*/}/conf"
	up "$1" "$2"
}

server_doh_bind() {
	write_zone "$1/zone"
	cat >"$1/conf" <<-END
		tls local { cert-file "/work/cert.pem"; key-file "/work/key.pem"; };
		http local { endpoints { "/dns-query"; }; };
		options {
		    directory "/work/${1##*/}";
		    pid-file none;
		    session-keyfile none;
		    recursion no;
		    listen-on port 5354 { 127.0.0.1; };
		    listen-on port $2 tls local http local { 127.0.0.1; };
		    listen-on-v6 { none; };
		    tcp-idle-timeout 20;
		};
		controls { };
		zone "compare.test" { type primary; file "zone"; };
	END
	direct=5354
	start "$1" in_root named -g -c "/work/${1##*/}/conf"
	up "$1" "$2"
}
