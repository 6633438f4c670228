package attest

import "fmt"

// EventType is TCG_EVENTTYPE. No digest covers it: a fact never rests on it alone.
type EventType uint32

// Event types of TCG PC Client Platform Firmware Profile 1.06, section 10.4.1.
const (
	evPrebootCert        EventType = 0x0
	evPostCode           EventType = 0x1
	evNoAction           EventType = 0x3
	evSeparator          EventType = 0x4
	evAction             EventType = 0x5
	evEventTag           EventType = 0x6
	evSCRTMContents      EventType = 0x7
	evSCRTMVersion       EventType = 0x8
	evCPUMicrocode       EventType = 0x9
	evPlatformConfig     EventType = 0xa
	evTableOfDevices     EventType = 0xb
	evCompactHash        EventType = 0xc
	evIPL                EventType = 0xd
	evIPLPartitionData   EventType = 0xe
	evNonhostCode        EventType = 0xf
	evNonhostConfig      EventType = 0x10
	evNonhostInfo        EventType = 0x11
	evOmitBootDevice     EventType = 0x12
	evPostCode2          EventType = 0x13
	evVariableDriver     EventType = 0x80000001
	evVariableBoot       EventType = 0x80000002
	evBootApplication    EventType = 0x80000003
	evBootDriver         EventType = 0x80000004
	evRuntimeDriver      EventType = 0x80000005
	evGPT                EventType = 0x80000006
	evEFIAction          EventType = 0x80000007
	evFirmwareBlob       EventType = 0x80000008
	evHandoffTables      EventType = 0x80000009
	evFirmwareBlob2      EventType = 0x8000000a
	evHandoffTables2     EventType = 0x8000000b
	evVariableBoot2      EventType = 0x8000000c
	evGPT2               EventType = 0x8000000d
	evHCRTM              EventType = 0x80000010
	evVariableAuthority  EventType = 0x800000e0
	evSPDMFirmwareBlob   EventType = 0x800000e1
	evSPDMFirmwareConfig EventType = 0x800000e2
)

// String returns the name in the specification.
func (t EventType) String() string {
	if name := coreName(t); name != "" {
		return name
	}
	if name := efiName(t); name != "" {
		return name
	}
	return fmt.Sprintf("event type 0x%x", uint32(t))
}

func coreName(t EventType) string {
	names := [...]string{
		"EV_PREBOOT_CERT", "EV_POST_CODE", "", "EV_NO_ACTION", "EV_SEPARATOR", "EV_ACTION", "EV_EVENT_TAG",
		"EV_S_CRTM_CONTENTS", "EV_S_CRTM_VERSION", "EV_CPU_MICROCODE", "EV_PLATFORM_CONFIG_FLAGS",
		"EV_TABLE_OF_DEVICES", "EV_COMPACT_HASH", "EV_IPL", "EV_IPL_PARTITION_DATA", "EV_NONHOST_CODE",
		"EV_NONHOST_CONFIG", "EV_NONHOST_INFO", "EV_OMIT_BOOT_DEVICE_EVENTS", "EV_POST_CODE2",
	}
	if int64(t) < int64(len(names)) {
		return names[t]
	}
	return ""
}

func efiName(t EventType) string {
	switch t {
	case evVariableDriver:
		return "EV_EFI_VARIABLE_DRIVER_CONFIG"
	case evVariableBoot:
		return "EV_EFI_VARIABLE_BOOT"
	case evBootApplication:
		return "EV_EFI_BOOT_SERVICES_APPLICATION"
	case evBootDriver:
		return "EV_EFI_BOOT_SERVICES_DRIVER"
	case evRuntimeDriver:
		return "EV_EFI_RUNTIME_SERVICES_DRIVER"
	case evGPT:
		return "EV_EFI_GPT_EVENT"
	case evEFIAction:
		return "EV_EFI_ACTION"
	case evFirmwareBlob:
		return "EV_EFI_PLATFORM_FIRMWARE_BLOB"
	case evHandoffTables:
		return "EV_EFI_HANDOFF_TABLES"
	case evFirmwareBlob2:
		return "EV_EFI_PLATFORM_FIRMWARE_BLOB2"
	case evHandoffTables2:
		return "EV_EFI_HANDOFF_TABLES2"
	case evVariableBoot2:
		return "EV_EFI_VARIABLE_BOOT2"
	case evGPT2:
		return "EV_EFI_GPT_EVENT2"
	case evHCRTM:
		return "EV_EFI_HCRTM_EVENT"
	case evVariableAuthority:
		return "EV_EFI_VARIABLE_AUTHORITY"
	case evSPDMFirmwareBlob:
		return "EV_EFI_SPDM_FIRMWARE_BLOB"
	case evSPDMFirmwareConfig:
		return "EV_EFI_SPDM_FIRMWARE_CONFIG"
	}
	return ""
}
