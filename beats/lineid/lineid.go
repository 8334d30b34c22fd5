// Package lineid is Filebeat's processor "line_id": it sets event.id, the same whenever the same line is read again.
//
// A line is named by its file (device and inode, so that a rename changes nothing), by how often that file was emptied,
// by its place and by its text. Filebeat sends a line again when it is killed between reading it and hearing that it
// arrived; a name that the shipper draws by lot (add_id) would then be another one, and a digest of path and offset is
// the same for the first lines of every file that is rotated or emptied.
package lineid

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/elastic/beats/v7/libbeat/beat"
	"github.com/elastic/beats/v7/libbeat/common"
	"github.com/elastic/beats/v7/libbeat/paths"
	"github.com/elastic/beats/v7/libbeat/processors"
)

func init() {
	processors.RegisterPlugin("line_id", func(*common.Config) (processors.Processor, error) {
		return Open(paths.Resolve(paths.Data, "line-id"))
	})
}

// File is what is remembered of one file.
type File struct {
	Emptied  int   `json:"emptied"` // how often it was truncated
	Slot     int64 `json:"slot"`    // where its farthest offset stands
	farthest int64 // what was read since it was emptied begins before this offset
}

// Processor names lines; it is shared by all harvesters. Files and how often they were emptied are a small JSON file,
// written when that changes; the offset of every line is written too, into its file's slot of eight bytes.
type Processor struct {
	mutex sync.Mutex
	path  string
	slots *os.File
	host  string
	files map[string]*File
	read  map[string]int64 // what this process read of each begins before this offset
}

// Open starts from what the last process wrote down in path.json and path.offsets.
func Open(path string) (*Processor, error) {
	p := &Processor{path: path + ".json", files: map[string]*File{}, read: map[string]int64{}}
	p.host, _ = os.Hostname()
	text, err := os.ReadFile(p.path)
	if err == nil {
		err = json.Unmarshal(text, &p.files)
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("line_id: %s: %w", p.path, err)
	}
	if p.slots, err = os.OpenFile(path+".offsets", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("line_id: %w", err)
	}
	for _, file := range p.files {
		var slot [8]byte
		if _, err = p.slots.ReadAt(slot[:], file.Slot*8); err != nil && err != io.EOF {
			return nil, fmt.Errorf("line_id: %w", err)
		}
		file.farthest = int64(binary.LittleEndian.Uint64(slot[:]))
	}
	return p, nil
}

// Run sets event.id of an event that filestream read from a file, and leaves every other one alone.
func (p *Processor) Run(event *beat.Event) (*beat.Event, error) {
	source, ok := event.Private.(interface{ Key() string })
	if !ok {
		return event, nil
	}
	place, err := event.GetValue("log.offset")
	if err != nil {
		return event, nil
	}
	offset, ok := place.(int64)
	if !ok {
		return event, nil
	}
	path, _ := event.GetValue("log.file.path")
	name, _ := path.(string)
	emptied, err := p.emptied(source.Key(), name, offset)
	if err != nil {
		return event, err
	}
	message, _ := event.GetValue("message")
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s\x1f%s\x1f%d\x1f%d\x1f%v", p.host, source.Key(), emptied, offset, message)))
	_, err = event.PutValue("event.id", hex.EncodeToString(sum[:16]))
	return event, err
}

func (p *Processor) String() string { return "line_id" }

// emptied tells how often the file was truncated before this line. Within one process a smaller offset says that it
// was just now; the first line after a start may also be one that is read again, then the file is as long as it was.
func (p *Processor) emptied(key, path string, offset int64) (int, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	file := p.files[key]
	changed := file == nil
	if changed {
		file = &File{Slot: int64(len(p.files))}
		p.files[key] = file
	}
	before, known := p.read[key]
	if (known && offset < before) || (!known && offset < file.farthest && shorter(path, file.farthest)) {
		file.Emptied++
		file.farthest = 0
		changed = true
	}
	p.read[key] = offset + 1
	if changed {
		if err := p.save(); err != nil {
			return 0, err
		}
	}
	if changed || offset >= file.farthest {
		file.farthest = offset + 1
		var slot [8]byte
		binary.LittleEndian.PutUint64(slot[:], uint64(file.farthest))
		if _, err := p.slots.WriteAt(slot[:], file.Slot*8); err != nil {
			return 0, err
		}
	}
	return file.Emptied, nil
}

func shorter(path string, than int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() < than
}

func (p *Processor) save() error {
	text, err := json.Marshal(p.files)
	if err == nil {
		err = os.WriteFile(p.path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(p.path+".new", p.path)
	}
	return err
}
