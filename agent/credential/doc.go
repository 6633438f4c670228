// Package credential gives systemd units their sealed secrets, by LoadCredential=.
//
// Its promise: a unit gets its own secrets and no other's, root's manager alone is
// asked back, and a unit that may not have its secret does not start with an empty one.
//
// # The exchange
//
// For LoadCredential=NAME:SOCKET the manager connects from an abstract address that
// it binds first, "@" + hex digits + "/unit/" + unit + "/" + NAME, sends nothing and
// reads to the end (systemd.exec(5), systemd v247 and later). The address says who
// asks; anybody may bind such a one, so it counts only from user 0, as the kernel
// says (SO_PEERCRED). A connection has no word for a refusal, and one that ends at
// once makes an empty credential. So a refusal is more bytes than the manager takes,
// 1 MiB: it gives up the start of the unit (exit status 243/CREDENTIALS).
package credential
