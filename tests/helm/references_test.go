package helm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// checkReferences: every file that is mounted and every variable comes from a ConfigMap or a Secret that has it. One that
// the chart does not make has to be named in the values.
func checkReferences(t *testing.T, all objects, values string) {
	t.Helper()
	pod := all.set.Spec.Template.Spec
	has := func(kind, name, key string) {
		t.Helper()
		keys, made := all.keys(kind, name)
		switch {
		case !made && !strings.Contains(values, name):
			t.Errorf("there is no %s %s", kind, name)
		case made && key != "" && !slices.Contains(keys, key):
			t.Errorf("%s %s has no %q, but %q", kind, name, key, keys)
		}
	}
	volumes := map[string]core.Volume{}
	for _, claim := range all.set.Spec.VolumeClaimTemplates {
		volumes[claim.Name] = core.Volume{Name: claim.Name}
	}
	for _, volume := range pod.Volumes {
		if _, twice := volumes[volume.Name]; twice {
			t.Errorf("there are two volumes %s", volume.Name)
		}
		volumes[volume.Name] = volume
		if source := volume.ConfigMap; source != nil {
			has("ConfigMap", source.Name, "")
			eachItem(source.Items, func(key string) { has("ConfigMap", source.Name, key) })
		}
		if source := volume.Secret; source != nil {
			has("Secret", source.SecretName, "")
			eachItem(source.Items, func(key string) { has("Secret", source.SecretName, key) })
		}
	}
	mounted := map[string]bool{}
	for _, container := range pod.Containers {
		places := map[string]bool{}
		for _, mount := range container.VolumeMounts {
			volume, known := volumes[mount.Name]
			if !known {
				t.Errorf("%s mounts %s, which is no volume", container.Name, mount.Name)
			}
			if mount.SubPath != "" && volume.ConfigMap != nil {
				has("ConfigMap", volume.ConfigMap.Name, mount.SubPath)
			}
			if places[mount.MountPath] {
				t.Errorf("%s has two mounts at %s", container.Name, mount.MountPath)
			}
			places[mount.MountPath], mounted[mount.Name] = true, true
		}
		for _, variable := range container.Env {
			if from := variable.ValueFrom; from != nil && from.SecretKeyRef != nil {
				has("Secret", from.SecretKeyRef.Name, from.SecretKeyRef.Key)
			}
		}
	}
	for name := range volumes {
		if !mounted[name] {
			t.Errorf("nothing mounts %s", name)
		}
	}
}

// keys are those of a ConfigMap or Secret that the chart makes.
func (all objects) keys(kind, name string) (keys []string, made bool) {
	if kind == "ConfigMap" {
		object, made := all.configMaps[name]
		for key := range object.Data {
			keys = append(keys, key)
		}
		return keys, made
	}
	object, made := all.secrets[name]
	for key := range object.Data {
		keys = append(keys, key)
	}
	for key := range object.StringData {
		keys = append(keys, key)
	}
	return keys, made
}

func eachItem(items []core.KeyToPath, check func(key string)) {
	for _, item := range items {
		check(item.Key)
	}
}

// checkPorts: every port that is named is one of a container, with the same protocol.
func checkPorts(t *testing.T, all objects) {
	t.Helper()
	ports := map[string]core.Protocol{}
	for _, container := range all.set.Spec.Template.Spec.Containers {
		own := map[string]bool{}
		for _, port := range container.Ports {
			if _, twice := ports[port.Name]; twice {
				t.Errorf("two ports are named %s", port.Name)
			}
			ports[port.Name], own[port.Name] = port.Protocol, true
		}
		for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			if probe == nil || !own[probe.HTTPGet.Port.StrVal] {
				t.Errorf("%s needs a probe at a port of its own: %v", container.Name, probe)
			}
		}
	}
	check := func(where string, port intstr.IntOrString, protocol core.Protocol) {
		t.Helper()
		if known, there := ports[port.StrVal]; !there || known != protocol {
			t.Errorf("%s: the pod has no port %s of %s", where, port.String(), protocol)
		}
	}
	for _, service := range all.services {
		for _, port := range service.Spec.Ports {
			check(service.Name, port.TargetPort, port.Protocol)
		}
	}
	for _, policy := range all.policies {
		for _, rule := range policy.Spec.Ingress {
			for _, port := range rule.Ports {
				check(policy.Name, *port.Port, *port.Protocol)
			}
		}
	}
}

// checkSelectors: what selects pods selects those of the StatefulSet, and the ServiceMonitor selects one Service with its port.
func checkSelectors(t *testing.T, all objects) {
	t.Helper()
	template := labels.Set(all.set.Spec.Template.Labels)
	selects := func(where string, selector *meta.LabelSelector, what labels.Set) bool {
		t.Helper()
		parsed, err := meta.LabelSelectorAsSelector(selector)
		if err != nil || parsed.Empty() {
			t.Errorf("%s: a selector that selects nothing or everything: %v", where, err)
			return false
		}
		return parsed.Matches(what)
	}
	if !selects(all.set.Name, all.set.Spec.Selector, template) {
		t.Errorf("the StatefulSet does not select its own pods")
	}
	heads := false
	for _, service := range all.services {
		if !selects(service.Name, &meta.LabelSelector{MatchLabels: service.Spec.Selector}, template) {
			t.Errorf("Service %s does not select the pods", service.Name)
		}
		heads = heads || service.Name == all.set.Spec.ServiceName && service.Spec.ClusterIP == core.ClusterIPNone
	}
	if !heads {
		t.Errorf("%s is no headless Service", all.set.Spec.ServiceName)
	}
	for _, budget := range all.budgets {
		if !selects(budget.Name, budget.Spec.Selector, template) {
			t.Errorf("PodDisruptionBudget %s does not select the pods", budget.Name)
		}
	}
	for _, policy := range all.policies {
		if !selects(policy.Name, &policy.Spec.PodSelector, template) {
			t.Errorf("NetworkPolicy %s does not select the pods", policy.Name)
		}
	}
	for _, scaler := range all.scalers {
		if target := scaler.Spec.ScaleTargetRef; target.Kind != "StatefulSet" || target.Name != all.set.Name {
			t.Errorf("HorizontalPodAutoscaler %s scales %s %s", scaler.Name, target.Kind, target.Name)
		}
	}
	for _, monitor := range all.monitors {
		var found []core.Service
		for _, service := range all.services {
			if selects(monitor.Name, &monitor.Spec.Selector, service.Labels) {
				found = append(found, service)
			}
		}
		if len(found) != 1 {
			t.Fatalf("ServiceMonitor %s should select one Service, and selects %d", monitor.Name, len(found))
		}
		for _, endpoint := range monitor.Spec.Endpoints {
			named := func(port core.ServicePort) bool { return port.Name == endpoint.Port }
			if !slices.ContainsFunc(found[0].Spec.Ports, named) {
				t.Errorf("Service %s has no port %s", found[0].Name, endpoint.Port)
			}
		}
	}
}

// checkConfiguration: the program takes its configuration, with the definitions that are mounted beside its own, and an EMQX in
// the same pod is configured as the program says.
func checkConfiguration(t *testing.T, all objects) {
	t.Helper()
	gateway := all.configMaps[all.set.Name]
	folder := t.TempDir()
	definitions := filepath.Join(folder, "xml")
	if err := os.CopyFS(definitions, os.DirFS("../../xml")); err != nil {
		t.Fatal(err)
	}
	for file, content := range all.configMaps[all.set.Name+"-objects"].Data {
		write(t, filepath.Join(definitions, file), content)
	}
	place := filepath.Join(folder, "etc")
	mountAt(t, place, all)
	file := filepath.Join(folder, "gateway.toml")
	write(t, file, strings.ReplaceAll(gateway.Data["gateway.toml"], mountRoot, place))
	program(t, definitions, environment(all), "check", "--config", file)

	arguments := all.set.Spec.Template.Spec.Containers[0].Args
	if last := arguments[len(arguments)-1]; last != mountPath(all, "config")+"/gateway.toml" {
		t.Errorf("the configuration is not mounted where the program looks: %s", last)
	}
	emqx, beside := all.configMaps[all.set.Name+"-emqx"]
	if !beside {
		return
	}
	var expected string
	if strings.Contains(gateway.Data["gateway.toml"], `kind = "exproto"`) {
		expected = exproto(string(program(t, definitions, environment(all), "emqx-config", "--config", file)))
	}
	if actual := exproto(emqx.Data["emqx.conf"]); actual != expected {
		t.Errorf("EMQX is not configured as the program says:\n%s\ninstead of\n%s", actual, expected)
	}
}

// environment is that of the gateway in the first pod, without what comes from Secrets.
func environment(all objects) (variables []string) {
	pod := all.set.Name + "-0"
	known := map[string]string{}
	for _, variable := range all.set.Spec.Template.Spec.Containers[0].Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil {
			if from.FieldRef == nil || from.FieldRef.FieldPath != "metadata.name" {
				continue
			}
			value = pod
		}
		for name, earlier := range known {
			value = strings.ReplaceAll(value, "$("+name+")", earlier)
		}
		known[variable.Name] = value
		variables = append(variables, variable.Name+"="+value)
	}
	return variables
}

// Below it the chart mounts what the configuration names.
const mountRoot = "/etc/lwm2m-gateway"

// mountAt puts the files that the gateway sees below mountRoot into a folder: those of the chart's own Secrets, and a
// certificate for Secrets that somebody else makes.
func mountAt(t *testing.T, folder string, all objects) {
	t.Helper()
	pod := all.set.Spec.Template.Spec
	for _, mount := range pod.Containers[0].VolumeMounts {
		below, mounted := strings.CutPrefix(mount.MountPath, mountRoot)
		at := slices.IndexFunc(pod.Volumes, func(volume core.Volume) bool { return volume.Name == mount.Name })
		if !mounted || at < 0 || pod.Volumes[at].Secret == nil {
			continue
		}
		files := certificate(t)
		if secret, made := all.secrets[pod.Volumes[at].Secret.SecretName]; made {
			files = secret.StringData
		}
		for name, content := range files {
			write(t, filepath.Join(folder, below, name), content)
		}
	}
}

func mountPath(all objects, volume string) string {
	for _, mount := range all.set.Spec.Template.Spec.Containers[0].VolumeMounts {
		if mount.Name == volume {
			return mount.MountPath
		}
	}
	return ""
}

// exproto is the first section gateway.exproto of a configuration of EMQX, without comments and empty lines.
func exproto(configuration string) string {
	var section []string
	for line := range strings.Lines(configuration) {
		line = strings.TrimRight(line, " \n")
		if line == "gateway.exproto {" || len(section) > 0 && section[len(section)-1] != "}" {
			if meant := strings.TrimSpace(line); meant != "" && !strings.HasPrefix(meant, "#") {
				section = append(section, line)
			}
		}
	}
	return strings.Join(section, "\n")
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
