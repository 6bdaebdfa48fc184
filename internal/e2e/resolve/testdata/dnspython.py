# SPDX-License-Identifier: Apache-2.0
"""Queries with dnspython, which rejects replies from another address:
dnspython.py SERVER NAME, over UDP, over TCP, and for a TXT record set that is too long
for UDP. It prints one line per query."""

import sys

import dns.flags
import dns.message
import dns.query

server, name = sys.argv[1:]

q = dns.message.make_query(name, "A", want_dnssec=True)
r = dns.query.udp(q, server, timeout=5)
print("udp", r.answer[0][0])

r = dns.query.tcp(q, server, timeout=5)
print("tcp", r.answer[0][0])

q = dns.message.make_query("txt-1500." + name, "TXT", use_edns=0, payload=1232)
r = dns.query.udp(q, server, timeout=5)
assert r.flags & dns.flags.TC and not r.answer, r
r, tcp = dns.query.udp_with_fallback(q, server, timeout=5)
assert tcp
print("txt", sum(len(s) for s in r.answer[0][0].strings))

q = dns.message.make_query(name, "HTTPS")
r = dns.query.udp(q, server, timeout=5)
print("https", r.answer[0][0])
