// SPDX-License-Identifier: Apache-2.0

package wire

import "strconv"

var rcodeNames = [...]string{
	"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
	"YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE", "DSOTYPENI",
}

// RcodeName is a response code's mnemonic (the IANA registry's), or RCODE123 for
// one that has none here.
func RcodeName(rcode uint16) string {
	if int(rcode) < len(rcodeNames) {
		return rcodeNames[rcode]
	}
	switch rcode {
	case RcodeBadVers:
		return "BADVERS"
	case RcodeBadCookie:
		return "BADCOOKIE"
	}
	return "RCODE" + strconv.Itoa(int(rcode))
}
