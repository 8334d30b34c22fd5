package lineid

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/elastic/beats/v7/libbeat/beat"
	"github.com/elastic/beats/v7/libbeat/common"
)

type source string

func (s source) Key() string { return string(s) }

// name tells the id of a line, as a process that opened p gives it.
func name(t *testing.T, p *Processor, file source, path string, offset int64, message string) string {
	t.Helper()
	event, err := p.Run(&beat.Event{Private: file, Fields: common.MapStr{
		"message": message,
		"log":     common.MapStr{"offset": offset, "file": common.MapStr{"path": path}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	id, err := event.GetValue("event.id")
	if err != nil {
		t.Fatal(err)
	}
	return id.(string)
}

func open(t *testing.T, state string) *Processor {
	t.Helper()
	p, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEqualLinesOfOneFileAreDifferent(t *testing.T) {
	p := open(t, filepath.Join(t.TempDir(), "state"))
	if name(t, p, "a", "", 0, "x") == name(t, p, "a", "", 2, "x") || name(t, p, "a", "", 4, "x") == name(t, p, "b", "", 4, "x") {
		t.Fatal("two lines have one id")
	}
}

func TestALineThatIsReadAgainAfterAKillKeepsItsId(t *testing.T) {
	dir := t.TempDir()
	log, state := filepath.Join(dir, "log"), filepath.Join(dir, "state")
	write(t, log, "x\nx\nx\n")
	before := open(t, state)
	first, second := name(t, before, "a", log, 0, "x"), name(t, before, "a", log, 2, "x")
	after := open(t, state)
	if name(t, after, "a", log, 0, "x") != first || name(t, after, "a", log, 2, "x") != second {
		t.Fatal("a line that is read again has another id")
	}
}

func TestARenamedFilesLinesKeepTheirIds(t *testing.T) {
	dir := t.TempDir()
	old, renamed, state := filepath.Join(dir, "log"), filepath.Join(dir, "log.1"), filepath.Join(dir, "state")
	write(t, old, "x\n")
	first := name(t, open(t, state), "a", old, 0, "x")
	if err := os.Rename(old, renamed); err != nil {
		t.Fatal(err)
	}
	if name(t, open(t, state), "a", renamed, 0, "x") != first {
		t.Fatal("the id changed with the file's name")
	}
}

func TestTheSameLineOfAnEmptiedFileIsAnotherOne(t *testing.T) {
	dir := t.TempDir()
	log, state := filepath.Join(dir, "log"), filepath.Join(dir, "state")
	write(t, log, "x\nx\n")
	p := open(t, state)
	seen := map[string]bool{name(t, p, "a", log, 0, "x"): true, name(t, p, "a", log, 2, "x"): true}
	write(t, log, "x\n")
	seen[name(t, p, "a", log, 0, "x")] = true // emptied while this process read it
	if len(seen) != 3 {
		t.Fatal("ids of an emptied file came again")
	}
	write(t, log, "")
	write(t, log, "x\nx\n")
	p = open(t, state)
	again := name(t, p, "a", log, 0, "x") // read again after a kill: as long as it was
	if !seen[again] {
		t.Fatal("a line read again after the file was emptied has a new id")
	}
	name(t, p, "a", log, 2, "x")
	write(t, log, "x\n")
	p = open(t, state)
	if seen[name(t, p, "a", log, 0, "x")] { // emptied while no process ran
		t.Fatal("a file emptied while nobody read it gave an id again")
	}
}

func TestWhatIsNoLineOfAFileIsLeftAlone(t *testing.T) {
	p := open(t, filepath.Join(t.TempDir(), "state"))
	event, err := p.Run(&beat.Event{Fields: common.MapStr{"message": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if has, _ := event.Fields.HasKey("event.id"); has {
		t.Fatal("an event without a file has an id")
	}
}

func TestADamagedStateIsAnError(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	write(t, state+".json", "{")
	if _, err := Open(state); err == nil {
		t.Fatal("a damaged state was taken")
	}
}
