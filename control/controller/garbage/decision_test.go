package garbage

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func owned(uid types.UID, owners ...types.UID) *object {
	o := &object{uid: uid}
	for _, owner := range owners {
		block := true
		o.owners = append(o.owners, metav1.OwnerReference{UID: owner, BlockOwnerDeletion: &block})
	}
	return o
}

func TestDecide(t *testing.T) {
	orphaning, foreground := owned("o", "a"), owned("o", "a")
	orphaning.orphans, foreground.foreground = true, true
	cases := []struct {
		name       string
		object     *object
		fates      []fate
		dependents bool
		remove     metav1.DeletionPropagation
		release    []types.UID
	}{
		{"no owner", owned("o"), nil, false, "", nil},
		{"owner lives", owned("o", "a"), []fate{lives}, false, "", nil},
		{"owner gone", owned("o", "a"), []fate{gone}, false, metav1.DeletePropagationBackground, nil},
		{"one of two gone", owned("o", "a", "b"), []fate{gone, lives}, false, "", []types.UID{"a"}},
		{"one of two waits", owned("o", "a", "b"), []fate{lives, goes}, true, "", []types.UID{"b"}},
		{"owner waits, leaf", owned("o", "a"), []fate{goes}, false, metav1.DeletePropagationBackground, nil},
		{"owner waits, own dependents", owned("o", "a"), []fate{goes}, true, metav1.DeletePropagationForeground, nil},
		{"asked to orphan", orphaning, []fate{gone}, true, metav1.DeletePropagationOrphan, nil},
		{"asked for foreground", foreground, []fate{gone}, true, metav1.DeletePropagationForeground, nil},
	}
	for _, tc := range cases {
		got := decide(tc.object, tc.fates, tc.dependents)
		if got.remove != tc.remove || !slices.Equal(got.release, tc.release) {
			t.Errorf("%s: got %+v", tc.name, got)
		}
	}
}

func TestGraphTellsWhatIsAffected(t *testing.T) {
	g := newGraph()
	check := func(when string, got []types.UID, want ...types.UID) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	check("dependent before its owner", g.put(owned("child", "parent")), "child")
	check("owner", g.put(owned("parent")))
	check("same again", g.put(owned("child", "parent")))
	going := owned("parent")
	going.deleting, going.foreground = true, true
	check("owner waits", g.put(going), "parent")
	if !blocked("parent", g.dependentsOf("parent")) {
		t.Error("the child does not block")
	}
	check("dependent gone", g.remove("child"), "parent")
	check("owner gone", g.remove("parent"))
	g.put(owned("child", "parent"))
	g.put(owned("parent"))
	check("owner gone before the dependent", g.remove("parent"), "child")
	g.remove("child")
	if len(g.objects)+len(g.dependents) != 0 {
		t.Errorf("left behind: %v %v", g.objects, g.dependents)
	}
}
