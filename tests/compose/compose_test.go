// Checks deploy/compose as Docker Compose reads it, and its configurations with the program.
package compose

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const folder = "../../deploy/compose"

// program returns the program that has been built.
func program(t *testing.T) string {
	t.Helper()
	path := os.Getenv("LWM2M_GATEWAY")
	if path == "" {
		path = "../../target/debug/lwm2m-gateway"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads the file as `docker compose config` does: by the schema of the specification, which has no unknown keys.
func load(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(folder, "compose.yaml")}, cli.WithWorkingDirectory(folder))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeTakesTheFile(t *testing.T) {
	project := load(t)
	names := project.ServiceNames()
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "emqx gateway token" {
		t.Fatalf("services: %s", got)
	}
	for name, service := range project.Services {
		if service.Build != nil {
			if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, volume := range service.Volumes {
			if volume.Type == types.VolumeTypeBind {
				if _, err := os.Stat(volume.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if _, declared := project.Volumes[volume.Source]; !declared {
				t.Errorf("%s: no volume %s", name, volume.Source)
			}
		}
	}
}

// Two builds of one image at the same time would be in each other's way.
func TestTheImageIsBuiltOnceAndNeverPulled(t *testing.T) {
	services := load(t).Services
	gateway, token := services["gateway"], services["token"]
	if gateway.Build == nil || gateway.PullPolicy != types.PullPolicyBuild {
		t.Errorf("gateway: build %v, pull_policy %q", gateway.Build, gateway.PullPolicy)
	}
	if token.Build != nil || token.PullPolicy != types.PullPolicyNever || token.Image != gateway.Image {
		t.Errorf("token: build %v, pull_policy %q, image %q", token.Build, token.PullPolicy, token.Image)
	}
}

func TestOnlyTheDevicesPortIsOpenToOtherMachines(t *testing.T) {
	var published []string
	for name, service := range load(t).Services {
		for _, port := range service.Ports {
			published = append(published, strings.Join([]string{name, port.HostIP, port.Published, port.Protocol}, " "))
		}
	}
	slices.Sort(published)
	expected := []string{
		"emqx 127.0.0.1 18083 tcp",
		"emqx 127.0.0.1 1883 tcp",
		"gateway  5683 udp",
		"gateway 127.0.0.1 8086 tcp",
	}
	if !slices.Equal(published, expected) {
		t.Errorf("published: %q", published)
	}
}

// source returns the file of the host that a service has at a path.
func source(t *testing.T, service types.ServiceConfig, target string) string {
	t.Helper()
	for _, volume := range service.Volumes {
		if volume.Target == target {
			return volume.Source
		}
	}
	t.Fatalf("%s: nothing is mounted at %s", service.Name, target)
	return ""
}

func TestTheProgramTakesItsConfiguration(t *testing.T) {
	gateway := load(t).Services["gateway"]
	config := source(t, gateway, "/etc/lwm2m-gateway/gateway.toml")
	tokens := filepath.Join(t.TempDir(), "tokens")
	// The arguments of the service `token`, with a file of this machine.
	arguments := slices.Clone([]string(load(t).Services["token"].Command))
	arguments[len(arguments)-1] = tokens
	if out, err := exec.Command(program(t), arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check := exec.Command(program(t), "check", "--config", config)
	// What the image has at its paths.
	check.Env = []string{
		"LWM2M_GATEWAY__XML_DIR=../../xml",
		"LWM2M_GATEWAY__STORE__FILE=" + filepath.Join(t.TempDir(), "lwm2m-gateway.redb"),
		"LWM2M_GATEWAY__CONSOLE__TOKENS=" + tokens,
	}
	for name, value := range gateway.Environment {
		check.Env = append(check.Env, name+"="+*value)
	}
	out, err := check.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, line := range []string{
		"configuration: no mistakes",
		"broker: EMQX by ExProto, listener emqx:7993, adapter http://emqx:9100",
		"devices: CoAP over UDP at 0.0.0.0:5683",
		"console: 1 token, OK",
	} {
		if !strings.Contains(string(out), line) {
			t.Errorf("%q is not in:\n%s", line, out)
		}
	}
}

func TestTheConfigurationOfEMQXIsThatOfEMQXConfig(t *testing.T) {
	project := load(t)
	mounted, err := os.ReadFile(source(t, project.Services["emqx"], "/opt/emqx/etc/base.hocon"))
	if err != nil {
		t.Fatal(err)
	}
	config := source(t, project.Services["gateway"], "/etc/lwm2m-gateway/gateway.toml")
	printed, err := exec.Command(program(t), "emqx-config", "--config", config).Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(printed), "ADDRESS-OF-THE-GATEWAY", "gateway") != string(mounted) {
		t.Error("exproto.hocon is not what emqx-config prints for gateway.toml, with the name `gateway` in handler.address")
	}
}
