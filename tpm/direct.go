package tpm

import (
	"encoding/binary"
	"errors"

	"github.com/google/go-tpm/tpm2"
)

// direct runs a command that signs, with the empty passwords of handles, and returns
// the parameters of its answer (TPM 2.0 Part 1, 18). It is written out by hand: the
// library's encoding by reflection takes a fifth of what an emulated chip needs for
// the command itself.
func direct(c *Chip, code tpm2.TPMCC, parameters []byte, handles ...tpm2.NamedHandle) ([]byte, error) {
	command := binary.BigEndian.AppendUint32([]byte{0x80, 0x02, 0, 0, 0, 0}, uint32(code))
	for _, h := range handles {
		command = binary.BigEndian.AppendUint32(command, uint32(h.Handle))
	}
	command = append(command, 0, 0, 0, byte(9*len(handles)))
	for range handles {
		command = append(command, 0x40, 0, 0, 9, 0, 0, 0, 0, 0) // TPM_RS_PW, and nothing else
	}
	command = append(command, parameters...)
	binary.BigEndian.PutUint32(command[2:], uint32(len(command)))
	response, err := c.Send(command)
	if err != nil {
		return nil, err
	}
	if rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); rc != 0 {
		return nil, rc
	}
	rest := response[headerSize:]
	if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
		return nil, errors.New("an answer without parameters")
	}
	return rest[4 : 4+binary.BigEndian.Uint32(rest)], nil
}

// sized is a TPM2B.
func sized(data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...)
}

// statement splits what TPM2_Quote and TPM2_Certify answer: TPM2B_ATTEST, TPMT_SIGNATURE.
func statement(parameters []byte) (attest, signature []byte, err error) {
	if len(parameters) >= 2 {
		if n := 2 + int(binary.BigEndian.Uint16(parameters)); n < len(parameters) {
			return parameters[2:n:n], parameters[n:], nil
		}
	}
	return nil, nil, errors.New("a statement without signature")
}
