package wire

// Every length that comes from outside has its limit here, in bytes unless the
// name says otherwise.
const (
	MaxMessage      = 4 << 20   // one MQTT payload or HTTP body with evidence
	MaxBody         = 64 << 10  // any other MQTT payload or HTTP body
	MaxTopic        = 256       // an MQTT topic
	MaxEventLog     = 512 << 10 // a firmware event log
	MaxIMALog       = 2 << 20   // a part of an IMA list; what is longer comes in parts
	MaxCommand      = 16 << 10  // the signed bytes of a command
	MaxSignature    = 4 << 10   // one armored SSHSIG
	MaxSignatures   = 16        // signatures on one envelope, count
	MaxDevices      = 1024      // devices named by one command, count
	MaxCertificate  = 8 << 10   // one DER certificate
	MaxCertificates = 8         // certificates in one chain, count
	NonceSize       = 32        // a challenge's nonce
	MaxText         = 1024      // a name, reason or sentence
)
