#!/usr/bin/env python3
"""Print an attestation policy with what one boot measured.

Reads a firmware event log by tpm2_eventlog (package tpm2-tools). The result calls
this boot good: use the log of a machine that you trust, and read what is printed.
"""
import argparse, datetime, json, re, subprocess

args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
for name in ("fleet", "product", "version"):
    args.add_argument("--" + name, required=True)
args.add_argument("log", help="/sys/kernel/security/tpm0/binary_bios_measurements, or a copy of it")
args = args.parse_args()

text = subprocess.run(["tpm2_eventlog", args.log], capture_output=True, text=True, check=True).stdout
applications, lines, sections, section = [], [], {}, None
for event in text.split("- EventNum:")[1:]:
    digest = re.search(r'AlgorithmId: sha256\s+Digest: "([0-9a-f]{64})"', event)
    if not digest:
        continue
    digest = digest[1]
    pcr = int(re.search(r"PCRIndex: (\d+)", event)[1])
    kind = re.search(r"EventType: (\S+)", event)[1]
    words = re.search(r'String: \|-\s+"(.*)"', event)
    words = words[1].replace("\\0", "") if words else ""
    if pcr == 4 and kind == "EV_EFI_BOOT_SERVICES_APPLICATION":
        applications.append(digest)
    elif pcr == 12 and words not in lines:
        lines.append(words)
    elif pcr == 11:  # the name of a section, then its contents
        section = words if section is None else sections.__setitem__(section, digest)

print(json.dumps({
    "v": 1,
    "issued": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "fleet": args.fleet,
    "releases": [{
        "product": args.product, "version": args.version,
        "boot_applications": applications, "command_lines": lines, "uki_sections": sections,
    }],
}, indent=2))
