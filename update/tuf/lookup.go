package tuf

import "fmt"

// Lookup searches the targets roles for path, in pre-order and as far as they are
// delegated that path (5.6.7). Where the search needs a role that is not there
// yet, it returns that one as missing: update it and look up again. The error is
// ErrNoTarget if the search ends without a find.
func (s *Set) Lookup(path string) (found Target, missing *Delegation, err error) {
	visited, todo := make(map[string]bool), []Delegation{{Root, Targets}}
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if visited[next.Role] {
			continue
		}
		if len(visited) == MaxRolesSought {
			return Target{}, nil, refuse(path, "limit", "it is in none of the first %d roles", MaxRolesSought)
		}
		visited[next.Role] = true
		f, ok := s.targets[next.Role]
		if !ok {
			return Target{}, &next, nil
		}
		// Two roles may delegate to one, each with keys of its own.
		if err := s.verify(next, f.file); err != nil {
			return Target{}, nil, err
		}
		if t, ok := f.targets[path]; ok {
			return t, nil, nil
		}
		children, final := f.delegates(path)
		if final {
			todo = nil
		}
		todo = append(todo, children...)
	}
	return Target{}, nil, fmt.Errorf("look up %.80q: %w", path, ErrNoTarget)
}
