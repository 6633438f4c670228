package agent

import (
	"sync"
	"testing"
)

// Code whose pages were given back is there again when it is needed, in every
// thread that runs it.
func TestCodePagesComeBackWhenTheyAreNeeded(t *testing.T) {
	var threads sync.WaitGroup
	for range 4 {
		threads.Go(func() {
			for range 20 {
				if err := unmapCode(); err != nil {
					t.Error(err)
				}
				if s := DefaultSettings(); s.check() != nil {
					t.Error("the defaults are wrong")
				}
			}
		})
	}
	threads.Wait()
}
