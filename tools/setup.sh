#!/bin/sh
# Installs what the demo and the tests need besides Go, on Debian and its kin.
# Does nothing, quickly, where all of it is there. With the argument `packages` also
# what checks and tries the packages (make packages, make packages-test); with `e2e`
# what the virtual machines need (make e2e).
set -eu

packages="swtpm swtpm-tools tpm2-tools tpm2-openssl mosquitto openssh-client openssl osslsigncode curl gnutls-bin casync git ima-evm-utils ca-certificates dbus-daemon systemd python3-jwt python3-cryptography"

# One command (or file) for each package.
missing=""
need() {
	command -v "$1" >/dev/null 2>&1 || [ -e "/usr/sbin/$1" ] || missing="$missing $2"
}
need swtpm swtpm
need swtpm_setup swtpm-tools
need tpm2_quote tpm2-tools
ls /usr/lib/*/ossl-modules/tpm2.so >/dev/null 2>&1 || missing="$missing tpm2-openssl"
need mosquitto mosquitto
need ssh-keygen openssh-client
need openssl openssl
need osslsigncode osslsigncode
need curl curl
need certtool gnutls-bin
need casync casync
need git git
need evmctl ima-evm-utils
need dbus-daemon dbus-daemon
need systemd-analyze systemd
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
for module in jwt cryptography; do
	[ -e /usr/lib/python3/dist-packages/$module ] || missing="$missing python3-$module"
done

if [ "${1:-}" = packages ]; then
	packages="$packages lintian rpmlint rpm cpio binutils python3-magic mmdebstrap systemd-container"
	need lintian lintian
	need rpmlint rpmlint
	need rpm rpm
	need cpio cpio
	need readelf binutils
	need mmdebstrap mmdebstrap
	need systemd-nspawn systemd-container
	[ -e /usr/lib/python3/dist-packages/magic ] || missing="$missing python3-magic"
fi

if [ "${1:-}" = e2e ]; then
	packages="$packages qemu-system-x86 qemu-utils ovmf mmdebstrap fdisk dosfstools mtools binutils sbsigntool cryptsetup-bin socat zstd grub-common grub-efi-amd64-bin"
	need qemu-system-x86_64 qemu-system-x86
	need qemu-img qemu-utils
	need mmdebstrap mmdebstrap
	need sfdisk fdisk
	need mkfs.vfat dosfstools
	need mcopy mtools
	need objcopy binutils
	need sbsign sbsigntool
	need veritysetup cryptsetup-bin
	need socat socat
	need zstd zstd
	need grub-mkimage grub-common
	[ -e /usr/lib/grub/x86_64-efi/linux.mod ] || missing="$missing grub-efi-amd64-bin"
	[ -e /usr/share/OVMF/OVMF_CODE_4M.secboot.fd ] || missing="$missing ovmf"
fi

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go 1.26 or later is missing: https://go.dev/dl/" >&2
	exit 1
fi
version=$(go env GOVERSION)
minor=${version#go1.}
minor=${minor%%[!0-9]*}
if [ "${version#go1.}" != "$version" ] && [ "${minor:-0}" -lt 26 ]; then
	echo "setup: $version is too old; Go 1.26 or later is needed: https://go.dev/dl/" >&2
	exit 1
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "setup: installing$missing"
	# The broker is started by the tests that need it, never by the system.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# shellcheck disable=SC2086 # a list of words
	apt-get install -q -y --no-install-recommends $missing
	exit 0
fi
if command -v apt-get >/dev/null 2>&1; then
	echo "setup: these are missing:$missing. Run:" >&2
	echo "    sudo apt-get update && sudo apt-get install --no-install-recommends$missing" >&2
else
	echo "setup: these are missing (Debian's names):$missing. Install them, then try again." >&2
	echo "setup: the full list is: $packages" >&2
fi
exit 1
