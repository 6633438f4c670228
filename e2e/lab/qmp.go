package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// monitor has QEMU execute one command of its human monitor. Some of them report
// errors as text.
func (vm *VM) monitor(line string) error {
	conn, err := net.Dial("unix", vm.path("qmp.sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandLimit)); err != nil {
		return err
	}
	in, out := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
	var greeting struct{ QMP json.RawMessage }
	if err := in.Decode(&greeting); err != nil {
		return err
	}
	if _, err := execute(in, out, "qmp_capabilities", nil); err != nil {
		return err
	}
	said, err := execute(in, out, "human-monitor-command", map[string]string{"command-line": line})
	if err == nil && strings.TrimSpace(said) != "" {
		err = errors.New(strings.TrimSpace(said))
	}
	if err != nil {
		return fmt.Errorf("monitor %s: %w", line, err)
	}
	return nil
}

func execute(in *json.Decoder, out *json.Encoder, command string, arguments any) (string, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := out.Encode(request); err != nil {
		return "", err
	}
	for { // events may come between
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		switch err := in.Decode(&answer); {
		case err != nil:
			return "", err
		case answer.Error != nil:
			return "", errors.New(answer.Error.Desc)
		case answer.Return != nil:
			var text string
			_ = json.Unmarshal(answer.Return, &text) // an object says nothing more
			return text, nil
		}
	}
}

// Network plugs the machine's cable in or out.
func (vm *VM) Network(connected bool) {
	vm.Helper()
	state := "off"
	if connected {
		state = "on"
	}
	vm.must(vm.monitor("set_link net0 " + state))
}
