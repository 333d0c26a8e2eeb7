// SPDX-License-Identifier: Apache-2.0

// cnirun calls a conflist's plugins through the CNI project's own Go library, the one inside containerd, CRI-O and
// podman. One job as JSON on standard input, one outcome as JSON on standard output.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

type job struct {
	Command      string                 `json:"command"`
	Conflist     string                 `json:"conflist"`
	BinDirs      []string               `json:"binDirs"`
	CacheDir     string                 `json:"cacheDir"`
	ContainerID  string                 `json:"containerID"`
	NetNS        string                 `json:"netns"`
	IfName       string                 `json:"ifname"`
	Args         [][2]string            `json:"args"`
	Capabilities map[string]interface{} `json:"capabilities"`
}

type outcome struct {
	Result   types.Result `json:"result,omitempty"`
	Versions []string     `json:"versions,omitempty"`
	Text     string       `json:"text,omitempty"`
	Error    *types.Error `json:"error,omitempty"`
}

func run(j job) (out outcome, err error) {
	list, err := libcni.ConfListFromFile(j.Conflist)
	if err != nil {
		return out, err
	}
	library := libcni.NewCNIConfigWithCacheDir(j.BinDirs, j.CacheDir, nil)
	attachment := &libcni.RuntimeConf{
		ContainerID: j.ContainerID, NetNS: j.NetNS, IfName: j.IfName, Args: j.Args, CapabilityArgs: j.Capabilities,
	}
	switch ctx := context.Background(); j.Command {
	case "ADD":
		out.Result, err = library.AddNetworkList(ctx, list, attachment)
	case "CHECK":
		err = library.CheckNetworkList(ctx, list, attachment)
	case "DEL":
		err = library.DelNetworkList(ctx, list, attachment)
	case "VERSION":
		out.Versions, err = library.ValidateNetworkList(ctx, list)
	default:
		err = fmt.Errorf("unknown command %q", j.Command)
	}
	return out, err
}

func main() {
	var j job
	err := json.NewDecoder(os.Stdin).Decode(&j)
	var out outcome
	if err == nil {
		out, err = run(j)
	}
	if err != nil {
		out.Text = err.Error()
		errors.As(err, &out.Error)
	}
	if json.NewEncoder(os.Stdout).Encode(out) != nil {
		os.Exit(2)
	}
}
