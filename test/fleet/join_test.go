// SPDX-License-Identifier: Apache-2.0

package fleet

import "testing"

// TestFailedAttemptIsNotHeard has the connection of an attempt end after the next one has begun.
func TestFailedAttemptIsNotHeard(t *testing.T) {
	t.Parallel()
	r := newRoster(Project{}, "room")
	failed, forget := r.callback()
	forget()
	again, _ := r.callback()
	failed.OnDisconnected()
	if _, is := r.members(); is != linkUp {
		t.Errorf("the end of an attempt that failed makes the link %d; want it unchanged", is)
	}
	again.OnDisconnected()
	if _, is := r.members(); is != linkCut {
		t.Errorf("the end of the attempt that counts leaves the link %d; want it cut", is)
	}
}

func TestAgentIsJoiningUntilItHasJoined(t *testing.T) {
	t.Parallel()
	ls := &losses{}
	joined := ls.joins("agent-1")
	if !ls.isJoining("agent-1") || ls.isJoining("agent-2") {
		t.Error("the agent that tries to join is not the one that is said to")
	}
	joined()
	if ls.isJoining("agent-1") {
		t.Error("an agent that has joined is said to try still")
	}
}
