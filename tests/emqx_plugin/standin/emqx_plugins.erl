-module(emqx_plugins).
-export([get_config/1]).

%% EMQX 5.7 and 5.8 give `{ok, Map}`, newer ones the map.
get_config(_NameVsn) ->
    standin:get(plugin_config, {ok, #{}}).
