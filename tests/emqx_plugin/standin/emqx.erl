-module(emqx).
-export([data_dir/0, get_raw_config/2]).

data_dir() ->
    standin:get(data_dir, none).

get_raw_config(Path, Default) ->
    lists:foldl(fun below/2, #{<<"gateway">> => standin:get(gateway, #{})}, [key(Key) || Key <- Path] ++ [{default, Default}]).

below({default, Default}, missing) -> Default;
below({default, _}, Value) -> Value;
below(Key, Map) when is_map(Map) -> maps:get(Key, Map, missing);
below(_, missing) -> missing.

key(Key) -> atom_to_binary(Key).
