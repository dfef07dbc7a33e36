{{- define "gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "gateway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gateway.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What cannot be. */}}
{{- define "gateway.validate" -}}
{{- if and (eq .Values.mode "attach") (eq .Values.kind "exproto") (gt (int .Values.replicas) 1) -}}
{{- fail "replicas: with mode=attach and kind=exproto there can be one, for EMQX calls one handler; kind=mqtt or mode=sidecar can have more" -}}
{{- end -}}
{{- if and (eq .Values.mode "attach") (eq .Values.kind "mqtt") (empty .Values.attach.brokers) -}}
{{- fail "attach.brokers: with mode=attach and kind=mqtt at least one is needed" -}}
{{- end -}}
{{- if and (eq .Values.mode "attach") (eq .Values.kind "exproto") (empty .Values.attach.nodes) -}}
{{- fail "attach.nodes: with mode=attach and kind=exproto at least one is needed" -}}
{{- end -}}
{{- if and .Values.dtls.enabled (not (or .Values.dtls.psk.existingSecret .Values.dtls.psk.content .Values.dtls.certificate.existingSecret)) -}}
{{- fail "dtls: it needs credentials: dtls.psk or dtls.certificate" -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- if ne .Values.kind "mqtt" -}}
{{- fail "cluster: it needs kind=mqtt, for EMQX calls one ExProto handler" -}}
{{- end -}}
{{- if ne .Values.store.kind "redis" -}}
{{- fail "cluster: it needs store.kind=redis, which the pods share" -}}
{{- end -}}
{{- if not .Values.cluster.certificate.existingSecret -}}
{{- fail "cluster.certificate.existingSecret: with cluster.enabled it needs a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $timeout := include "gateway.shutdownTimeout" . | int -}}
{{- if lt (int .Values.emqx.staySeconds) $timeout -}}
{{- fail (printf "emqx.staySeconds: %d is less than shutdown_timeout, which is %d s: EMQX would end while the gateway still publishes; set it to %d or more" (int .Values.emqx.staySeconds) $timeout $timeout) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.cluster.enabled) -}}
{{- fail "autoscaling: it needs cluster.enabled, since other pods keep the devices that they have" -}}
{{- end -}}
{{- if eq .Values.store.kind "redis" -}}
{{- if not (or .Values.store.redis.urls .Values.store.redis.sentinels) -}}
{{- fail "store.redis: with store.kind=redis it needs urls or sentinels" -}}
{{- end -}}
{{- if not .Values.store.redis.existingSecret -}}
{{- fail "store.redis.existingSecret: with store.kind=redis it needs a Secret with the key seal" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "gateway.pskSecret" -}}
{{- default (printf "%s-psk" (include "gateway.fullname" .)) .Values.dtls.psk.existingSecret -}}
{{- end -}}

{{- define "gateway.emqxSecret" -}}
{{- default (printf "%s-emqx" (include "gateway.fullname" .)) .Values.emqx.existingSecret -}}
{{- end -}}

{{/* Whether EMQX calls a handler of ours from another pod. */}}
{{- define "gateway.handlerService" -}}
{{- if and (eq .Values.mode "attach") (eq .Values.kind "exproto") -}}yes{{- end -}}
{{- end -}}

{{/* Seconds that a pod has to stop. With a cluster it hands its devices over, which connect at the broker by another pod. */}}
{{- define "gateway.gracePeriod" -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- if .Values.cluster.enabled -}}
{{- $devices := dig "limits" "devices" 100000 .Values.config | int -}}
{{- $rate := dig "upstream" "mqtt" "connections_per_second" 5000 .Values.config | int -}}
{{- $grace = max $grace (add 60 (ceil (divf $devices (max 1 $rate)))) -}}
{{- end -}}
{{- $grace -}}
{{- end -}}

{{/* Seconds of `shutdown_timeout`: a number, or a text such as "1m 30s". The gateway has 10 s if nothing is set. */}}
{{- define "gateway.shutdownTimeout" -}}
{{- $timeout := dig "shutdown_timeout" "10s" (include "gateway.config" . | fromJson) -}}
{{- if kindIs "string" $timeout -}}
{{- $milliseconds := 0 -}}
{{- range $part := regexFindAll "[0-9]+ *[a-z]+" $timeout -1 -}}
{{- $unit := regexFind "[a-z]+" $part -}}
{{- $each := 0 -}}
{{- if regexMatch "^(ms|msec|millis)" $unit -}}{{- $each = 1 -}}
{{- else if hasPrefix "s" $unit -}}{{- $each = 1000 -}}
{{- else if hasPrefix "m" $unit -}}{{- $each = 60000 -}}
{{- else if hasPrefix "h" $unit -}}{{- $each = 3600000 -}}
{{- else if hasPrefix "d" $unit -}}{{- $each = 86400000 -}}
{{- end -}}
{{- $milliseconds = add $milliseconds (mul $each (regexFind "[0-9]+" $part | atoi)) -}}
{{- end -}}
{{- ceil (divf $milliseconds 1000) -}}
{{- else -}}
{{- int $timeout -}}
{{- end -}}
{{- end -}}

{{/* The section `store` of the configuration, as JSON. In a cluster all pods have one prefix. Otherwise each pod has one of its own, by its
environment. */}}
{{- define "gateway.store" -}}
{{- if eq .Values.store.kind "redis" -}}
{{- with .Values.store.redis -}}
{{- $redis := dict "master" .master "seal_keyfile" "/etc/lwm2m-gateway/store/seal" -}}
{{- if .urls -}}{{- $_ := set $redis "urls" .urls -}}{{- end -}}
{{- if .sentinels -}}{{- $_ := set $redis "sentinels" .sentinels -}}{{- end -}}
{{- if .passwordKey -}}{{- $_ := set $redis "passwordfile" "/etc/lwm2m-gateway/store/password" -}}{{- end -}}
{{- if $.Values.cluster.enabled -}}{{- $_ := set $redis "prefix" (include "gateway.fullname" $) -}}{{- end -}}
{{- dict "enable" true "kind" "redis" "redis" $redis | toJson -}}
{{- end -}}
{{- else -}}
{{- dict "enable" .Values.persistence.enabled "file" "/var/lib/lwm2m-gateway/lwm2m-gateway.redb" | toJson -}}
{{- end -}}
{{- end -}}

{{/* Whether the registrations are in a volume. */}}
{{- define "gateway.storeVolume" -}}
{{- if and .Values.persistence.enabled (eq .Values.store.kind "file") -}}yes{{- end -}}
{{- end -}}

{{/* The configuration of the gateway, as the chart has it, with `config` over it; as JSON. */}}
{{- define "gateway.config" -}}
{{- $config := dict
    "xml_dir" "/usr/share/lwm2m-gateway/xml"
    "store" (include "gateway.store" . | fromJson)
    "admin" (dict "bind" "0.0.0.0:8085")
    "log" (dict "format" "json")
    "listeners" (dict "udp" (dict "default" (dict "bind" "0.0.0.0:5683")))
-}}
{{- if eq .Values.kind "mqtt" -}}
{{- $brokers := ternary (list "127.0.0.1:1883") .Values.attach.brokers (eq .Values.mode "sidecar") -}}
{{- $_ := set $config "upstream" (dict "kind" "mqtt" "mqtt" (dict "brokers" $brokers)) -}}
{{- else if eq .Values.mode "sidecar" -}}
{{- $exproto := dict "listener" "127.0.0.1:7993" "adapter" "http://127.0.0.1:9100" "handler_bind" "127.0.0.1:9001" -}}
{{- $_ := set $config "upstream" (dict "kind" "exproto" "exproto" $exproto) -}}
{{- else -}}
{{- $_ := set $config "upstream" (dict "kind" "exproto" "exproto" (dict "nodes" .Values.attach.nodes "handler_bind" "0.0.0.0:9001")) -}}
{{- end -}}
{{- if .Values.dtls.enabled -}}
{{- $_ := set $config.listeners "dtls" (dict "default" (dict "bind" "0.0.0.0:5684")) -}}
{{- $dtls := dict -}}
{{- if or .Values.dtls.psk.existingSecret .Values.dtls.psk.content -}}
{{- $_ := set $dtls "psk_file" (printf "/etc/lwm2m-gateway/psk/%s" .Values.dtls.psk.key) -}}
{{- end -}}
{{- if .Values.dtls.certificate.existingSecret -}}
{{- $_ := set $dtls "certfile" "/etc/lwm2m-gateway/certificate/tls.crt" -}}
{{- $_ := set $dtls "keyfile" "/etc/lwm2m-gateway/certificate/tls.key" -}}
{{- end -}}
{{- if .Values.dtls.devicesCA.existingSecret -}}
{{- $_ := set $dtls "cacertfile" (printf "/etc/lwm2m-gateway/devices-ca/%s" .Values.dtls.devicesCA.key) -}}
{{- end -}}
{{- $_ := set $config "dtls" $dtls -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- $folder := "/etc/lwm2m-gateway/cluster" -}}
{{- $files := dict "cacertfile" (printf "%s/ca.crt" $folder) "certfile" (printf "%s/tls.crt" $folder) "keyfile" (printf "%s/tls.key" $folder) -}}
{{- $_ := set $config "cluster" (merge (dict "enable" true "bind" "0.0.0.0:5690") $files) -}}
{{- $_ := set $config "shutdown_timeout" (printf "%ds" (sub (include "gateway.gracePeriod" . | int) 25)) -}}
{{- end -}}
{{- mustMergeOverwrite $config (deepCopy .Values.config) | toJson -}}
{{- end -}}

{{/* Helm knows numbers with a fraction alone, and the gateway tells them from whole ones. */}}
{{- define "gateway.toml" -}}
{{- regexReplaceAll "(?m)= (-?[0-9]+)\\.0$" (include "gateway.config" . | fromJson | toToml) "= ${1}" -}}
{{- end -}}

{{/* etc/emqx.conf of the EMQX beside the gateway. Its part for exproto is what `lwm2m-gateway emqx-config` says. */}}
{{- define "gateway.emqxConf" -}}
node {
  name = "emqx@127.0.0.1"
  cookie = "overridden by EMQX_NODE__COOKIE"
  data_dir = "data"
}
cluster {
  name = emqxcl
  discovery_strategy = manual
}
dashboard.listeners.http.bind = 18083
{{- if eq .Values.kind "exproto" }}
{{ $config := include "gateway.config" . | fromJson -}}
{{- $exproto := $config.upstream.exproto -}}
{{- $anchors := dig "connections_per_second" 5000 $exproto | int -}}
{{- $registers := dig "limits" "registers" "per_second" 2000 $config | int }}
gateway.exproto {
  enable = true
  mountpoint = ""
  idle_timeout = 30s
  server {
    bind = {{ trimPrefix "http://" $exproto.adapter | quote }}
  }
  handler {
    address = {{ printf "http://%s" $exproto.handler_bind | quote }}
    service_name = "ConnectionUnaryHandler"
    ssl_options.enable = false
  }
  listeners.tcp.lwm2m {
    bind = {{ $exproto.listener | quote }}
    max_connections = {{ dig "limits" "devices" 100000 $config | int | add1 }}
    max_conn_rate = {{ add $anchors $registers }}
    proxy_protocol = false
  }
}
mqtt.max_packet_size = {{ ceil (divf (dig "limits" "command_size" 6291456 $config | int) 1048576) | int }}MB
{{- end }}
{{- with .Values.emqx.extraConfig }}
{{ . }}
{{- end }}
{{- end -}}
