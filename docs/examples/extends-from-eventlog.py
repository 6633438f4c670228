#!/usr/bin/env python3
"""Print what tpm2_pcrextend needs to repeat a boot: reads the output of tpm2_eventlog."""
import re, sys

for event in sys.stdin.read().split("- EventNum:")[1:]:
    digest = re.search(r'AlgorithmId: sha256\s+Digest: "([0-9a-f]{64})"', event)
    if digest and "EventType: EV_NO_ACTION" not in event:
        print(re.search(r"PCRIndex: (\d+)", event)[1] + ":sha256=" + digest[1])
