package conf_test

import (
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/conf"
)

func ExampleDecode() {
	settings := struct {
		State  string `toml:"state"`
		Health struct {
			Interval conf.Duration `toml:"interval"`
		} `toml:"health"`
	}{State: "/var/lib/gatewarden"}

	err := conf.Decode([]byte("[health]\ninterval = \"5m\"\n"), "agent.toml", &settings)
	fmt.Println(settings.State, time.Duration(settings.Health.Interval), err)

	err = conf.Decode([]byte("[health]\nintervall = \"5m\"\n"), "agent.toml", &settings)
	fmt.Println(err)
	// Output:
	// /var/lib/gatewarden 5m0s <nil>
	// unknown key `health.intervall` at agent.toml:2; did you mean `health.interval`?
}
