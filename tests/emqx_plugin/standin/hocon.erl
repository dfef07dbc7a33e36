%% As much of HOCON as `lwm2m-gateway emqx-config` prints: comments, `a.b {`, `}` and `a.b = value` on lines of their own.
-module(hocon).
-export([binary/2]).

binary(Text, #{format := map}) ->
    Lines = [string:trim(Line) || Line <- string:split(Text, "\n", all)],
    {Map, []} = object([Line || Line <- Lines, Line =/= <<>>, binary:first(Line) =/= $#], #{}),
    {ok, Map}.

object([], Map) ->
    {Map, []};
object([<<"}">> | Rest], Map) ->
    {Map, Rest};
object([Line | Rest], Map) ->
    case string:split(Line, " = ") of
        [Path, Value] ->
            object(Rest, put_at(path(Path), value(Value), Map));
        [Open] ->
            [Path, <<>>] = string:split(Open, " {"),
            {Inner, After} = object(Rest, #{}),
            object(After, put_at(path(Path), Inner, Map))
    end.

path(Path) -> string:split(Path, ".", all).

value(<<"true">>) -> true;
value(<<"false">>) -> false;
value(Text) ->
    case string:to_integer(Text) of
        {Number, <<>>} -> Number;
        _ -> string:trim(Text, both, "\"")
    end.

put_at([Key], Value, Map) -> Map#{Key => Value};
put_at([Key | Path], Value, Map) -> Map#{Key => put_at(Path, Value, maps:get(Key, Map, #{}))}.
