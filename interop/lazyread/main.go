// Lazyread reads a layer as stargz-snapshotter mounts it: from the footer to the table of contents, down the
// directories, each file chunk by chunk, every chunk held to its digest. It prints the SHA-256 and the path, in
// hexadecimal too, of each file.
//
// usage: lazyread LAYER TOC-DIGEST
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	digest "github.com/opencontainers/go-digest"
)

type layer struct {
	reader   *estargz.Reader
	verifier estargz.TOCEntryVerifier
	// The digests of what was read. Names of one file share its entry.
	digests map[*estargz.TOCEntry][]byte
}

func (l layer) walk(name string, entry *estargz.TOCEntry) (err error) {
	entry.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
		below := path.Join(name, base)
		switch child.Type {
		case "dir":
			err = l.walk(below, child)
		case "reg":
			// Of a hard link, this is the entry it links to; the reader knows chunks by that entry's name only.
			err = l.read(below, child)
		}
		if err != nil {
			err = fmt.Errorf("%q: %w", base, err)
		}
		return err == nil
	})
	return err
}

func (l layer) read(name string, entry *estargz.TOCEntry) error {
	file, err := l.reader.OpenFile(name)
	if err != nil {
		return err
	}
	if l.digests[entry] == nil {
		if l.digests[entry], err = l.digest(file, entry); err != nil {
			return err
		}
	}
	fmt.Printf("%x %x\n", l.digests[entry], name)
	return nil
}

func (l layer) digest(file io.ReaderAt, entry *estargz.TOCEntry) ([]byte, error) {
	whole := sha256.New()
	for at := int64(0); at < entry.Size; {
		chunk, ok := l.reader.ChunkEntryForOffset(entry.Name, at)
		if !ok {
			return nil, fmt.Errorf("no chunk at byte %d of %d", at, entry.Size)
		}
		if chunk.ChunkOffset != at {
			return nil, fmt.Errorf("the chunk at byte %d begins at %d", at, chunk.ChunkOffset)
		}
		length := chunk.ChunkSize
		if length == 0 {
			length = entry.Size - at
		}
		verifier, err := l.verifier.Verifier(chunk)
		if err != nil {
			return nil, err
		}
		// All at once: the reader decodes a chunk from its beginning for each call.
		content := make([]byte, length)
		if _, err := io.ReadFull(io.NewSectionReader(file, at, length), content); err != nil {
			return nil, err
		}
		whole.Write(content)
		if _, err := verifier.Write(content); err != nil {
			return nil, err
		}
		if !verifier.Verified() {
			return nil, fmt.Errorf("the chunk at byte %d does not match its digest", at)
		}
		at += length
	}
	return whole.Sum(nil), nil
}

func run(blob, toc string) error {
	file, err := os.Open(blob)
	if err != nil {
		return err
	}
	found, err := file.Stat()
	if err != nil {
		return err
	}
	reader, err := estargz.Open(io.NewSectionReader(file, 0, found.Size()),
		estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	if err != nil {
		return err
	}
	verifier, err := reader.VerifyTOC(digest.Digest(toc))
	if err != nil {
		return err
	}
	root, ok := reader.Lookup("")
	if !ok {
		return fmt.Errorf("no root directory")
	}
	return layer{reader, verifier, map[*estargz.TOCEntry][]byte{}}.walk("", root)
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
