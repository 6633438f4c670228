package web

import "time"

// What a request may ask for and what a page may hold; counts unless the name
// says otherwise.
const (
	pageSize     = 50  // devices on a fleet page
	fleetEvents  = 12  // events on the fleet page
	deviceEvents = 40  // events on a device page
	commandRows  = 20  // commands on a device page
	certRows     = 6   // certificates on a device page; older ones are only counted
	updateRows   = 12  // updates on a device page
	releaseRows  = 50  // releases on their page; older ones are only counted
	modelRows    = 12  // hardware models shown of one release
	receiptRows  = 6   // receipts shown for one command
	ruleRows     = 100 // rules or changes shown of one verdict
	findingRows  = 100 // health findings on a device page
	firmwareRows = 20  // firmware sets on a device page
	proposalRows = 5   // sets of firmware that wait for a decision
	measureRows  = 64  // measurements shown of one firmware set
	maxQuery     = 100 // bytes of one query parameter
	maxStreams   = 64  // open event streams

	silence    = time.Hour              // without a message, after which a gateway is shown as silent
	pageTime   = 10 * time.Second       // for the queries of one page
	streamGap  = 500 * time.Millisecond // between two events of one stream, at least
	streamBeat = 20 * time.Second       // between signs of life in a silent stream
	streamLife = 30 * time.Minute       // after which a browser has to come back
	writeTime  = 10 * time.Second       // for one write to a stream
)
